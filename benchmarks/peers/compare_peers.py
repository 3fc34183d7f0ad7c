"""`bash run.sh bench peers`: a recipe against a competition notebook, on the same folds and weights."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, expand_home
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.experiments.differences import (
    RunScore,
    compare_to_reference,
    min_detectable_difference,
)
from cxrlt.experiments.report import format_interval, format_mean_std, format_number, markdown_table
from cxrlt.folds.rows import read_train_rows
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.table import add_file_column
from cxrlt.predictions.scoring import N_DRAWS, bootstrap_metrics
from cxrlt.predictions.standardise import pool_oof_scores
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import Recipe, load_recipe, run_name
from cxrlt.reports.page import PageTable
from cxrlt.training.run_paths import fold_dir

NOTEBOOK = "notebook"
METRICS = ("mAP", "mAUROC")


@dataclass(frozen=True)
class PeerComparison:
    """A multi-label recipe and the notebook, on every fold with every seed. `lr` is the notebook's."""

    source: ImageSource
    recipe: str
    seeds: int
    lr: float

    def __post_init__(self) -> None:
        if self.source.challenge.task != "multi_label":
            raise UserError(f"the notebook has several classes per image, {self.source.challenge.name} one.")
        if self.seeds < 1:
            raise UserError("--seeds must be at least 1.")

    @cached_property
    def cfg(self) -> Recipe:
        """The recipe."""
        return load_recipe(self.recipe)

    @property
    def weights(self) -> str:
        """The initial weights, as the notebook's flag: timm, none, or a file."""
        pretrained = self.cfg.model.pretrained
        return str(pretrained) if isinstance(pretrained, Path) else "timm" if pretrained else "none"

    def run_dir(self, model: str, seed: int) -> Path:
        """Return the folder of the folds of one model."""
        return self.source.workspace.run_dir(self.source.challenge.name, self.run_name(model, seed))

    def run_name(self, model: str, seed: int) -> str:
        """Return the name of a run. A notebook with other settings has another name."""
        if model == NOTEBOOK:
            cfg = self.cfg
            settings = (Path(self.weights).stem, f"{cfg.data.size}px", f"{cfg.schedule.epochs}epochs")
            model = "-".join([NOTEBOOK, cfg.model.backbone, *settings, f"lr{self.lr:g}"])
        return f"peers/{model}-seed{seed}"

    def oof_path(self, model: str, fold: int, seed: int) -> Path:
        """Return the file of the logits of the left-out images.

        The notebook's folder has no folders of folds, so that no command takes it for a run.
        """
        if model == NOTEBOOK:
            return self.run_dir(model, seed) / f"oof-{fold}.parquet"
        return fold_dir(self.run_dir(model, seed), fold) / "oof.parquet"

    def command(self, model: str, table: Path, fold: int, seed: int) -> list[str]:
        """Return the command that trains one fold and predicts its left-out images."""
        shared = ["--fold", str(fold), "--seed", str(seed)]
        if model != NOTEBOOK:
            name = self.run_name(model, seed)
            train = ["train", self.recipe, "--challenge", self.source.challenge.name, "--name", name, *shared]
            return [sys.executable, "-m", "cxrlt", *train, *self.source.flags()]
        cfg = self.cfg
        options = {
            "--backbone": cfg.model.backbone,
            "--weights": self.weights,
            "--size": cfg.data.size,
            "--epochs": cfg.schedule.epochs,
            "--lr": self.lr,
            "--batch-size": cfg.optim.batch_size,
        }
        words = [str(word) for pair in options.items() for word in pair]
        output = self.oof_path(model, fold, seed)
        return [sys.executable, "-m", "benchmarks.peers.notebook", str(table), str(output), *shared, *words]


def compare_peers(comparison: PeerComparison) -> str:
    """Train what is not finished, one training at a time, and return the table as Markdown.

    Raises UserError if a training fails.
    """
    source, models = comparison.source, (NOTEBOOK, run_name(comparison.recipe))
    rows = read_train_rows(source.challenge, source.workspace)
    files = add_file_column(source.challenge, rows.table, source.workspace)["file"]
    readable, _ = source.load_train_rows(rows.table, comparison.cfg.data.cache_size)
    table = readable.join(files)
    folds = sorted(table["fold"].unique())
    table_path = source.workspace.run_dir(source.challenge.name, "peers") / "table.parquet"
    table_path.parent.mkdir(parents=True, exist_ok=True)
    table[["file", "fold", *source.challenge.classes]].to_parquet(table_path)
    for seed, fold, model in product(range(comparison.seeds), folds, models):
        if comparison.oof_path(model, fold, seed).is_file():
            continue
        print(f"peers: {model}, fold {fold}, seed {seed}", flush=True)
        comparison.oof_path(model, fold, seed).parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(comparison.command(model, table_path, fold, seed), check=False)
        if done.returncode:
            raise UserError(f"the training of {model} on fold {fold} failed; its message is above.")
    scores = {
        model: [score(comparison, table, model, seed, folds) for seed in range(comparison.seeds)]
        for model in models
    }
    return format_report(comparison, scores, folds)


def score(
    comparison: PeerComparison, table: pd.DataFrame, model: str, seed: int, folds: Sequence[int]
) -> RunScore:
    """Return the scores of one model's left-out images, standardised per fold and class, with draws."""
    challenge = comparison.source.challenge
    classes, paths = [*challenge.classes], [comparison.oof_path(model, fold, seed) for fold in folds]
    parts = [
        pd.read_parquet(path) if model == NOTEBOOK else read_predictions(path, classes)[0] for path in paths
    ]
    logits = pd.concat(parts)[classes].loc[table.index]
    pooled = pool_oof_scores(logits, table["fold"], challenge.task)
    labels = table[classes].to_numpy(np.float64)
    patients = table["patient"].fillna(pd.Series(table.index, table.index)).to_numpy(str)
    drawn = bootstrap_metrics(challenge, labels, pooled.to_numpy(), patients, N_DRAWS)
    metrics = {name: drawn.overall[name] for name in METRICS}
    metrics |= {f"{group} mAP": draws["mAP"] for group, draws in drawn.groups.items()}
    return RunScore(metrics, pd.DataFrame({"AP": drawn.by_class["AP"][0]}))


def images_per_second(comparison: PeerComparison, model: str, folds: Sequence[int]) -> float:
    """Return the median speed of the trainings, over folds and seeds."""
    speeds = []
    for seed, fold in product(range(comparison.seeds), folds):
        path = comparison.oof_path(model, fold, seed)
        if model == NOTEBOOK:
            speeds.append(json.loads(path.with_suffix(".json").read_text())["images_per_s"])
        else:
            speeds.append(pd.read_csv(path.parent / "log.csv")["images_per_s"].median())
    return float(np.median(speeds))


def format_report(comparison: PeerComparison, scores: dict[str, list[RunScore]], folds: Sequence[int]) -> str:
    """Return the table of scores, differences and speeds as Markdown."""
    results, cfg = compare_to_reference(scores), comparison.cfg
    cells = []
    for row in results:
        values = [format_mean_std(row.means[name], row.seed_stds[name]) for name in row.means]
        speed = images_per_second(comparison, row.name, folds)
        cells.append([row.name, *values, f"{speed:.1f}"])
    ours = results[-1]
    differences = [format_interval(d.value, d.low, d.high) for d in ours.differences.values()]
    cells.append([f"{ours.name} minus {NOTEBOOK} [95 %]", *differences, ""])
    caption = (
        f"{comparison.source.challenge.name}, {cfg.model.backbone}, {cfg.data.size} px, "
        f"{cfg.schedule.epochs} epochs, folds {', '.join(map(str, folds))}, {comparison.seeds} seeds; "
        f"learning rate {cfg.optim.lr:g}, of the notebook {comparison.lr:g}. {METRICS[0]}: {ours.verdict}; "
        f"a difference of {format_number(min_detectable_difference(results))} is detected with 80 % power."
    )
    headings = ["", *ours.means, "images/s"]
    return f"{caption}\n\n{markdown_table(PageTable('', headings, cells))}"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags."""
    parser = argparse.ArgumentParser(
        prog="bash run.sh bench peers",
        description="Compare a recipe with a training as in a competition notebook. To continue an "
        "interrupted command, run it again.",
    )
    parser.add_argument("challenge", nargs="?", default="nihlt", help="default: %(default)s")
    parser.add_argument(
        "--recipe", default="small_pretrained", help="name or YAML file (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=2, help="trainings on each fold (default: %(default)s)")
    parser.add_argument("--lr", type=float, help="learning rate of the notebook (default: the recipe's)")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("CXRLT_ROOT", ".")))
    parser.add_argument("--allow-missing", action="store_true", help="use only the rows whose image exists")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Parse the flags, compare and print. Raises UserError for what the user can fix."""
    flags = parse(words)
    workspace = Workspace(expand_home(flags.root).absolute())
    challenge = get_challenge(flags.challenge, workspace.inputs_dir(flags.challenge))
    source = ImageSource(challenge, workspace, allow_missing=flags.allow_missing)
    lr = load_recipe(flags.recipe).optim.lr if flags.lr is None else flags.lr
    print(compare_peers(PeerComparison(source, flags.recipe, flags.seeds, lr)))
