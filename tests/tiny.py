"""A small `csv` challenge with real files: with images for whole stages, without images for predictions.

With images, tests train a network. Without images, `SimulatedRuns` writes the files that training and
prediction would write, with simulated logits.
"""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

import cxrlt
from cxrlt.artifacts import Workspace, write_artifact
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge, Task
from cxrlt.folds.make import make_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.standardise import macro_score, pool_oof_scores, write_constants
from cxrlt.predictions.store import PredictionsMeta, read_meta, read_predictions, write_predictions
from cxrlt.recipe import Recipe, load_recipe, save_recipe
from cxrlt.training.record import RunRecord, training_provenance

if TYPE_CHECKING:  # importing torch takes seconds, and tests of predictions do not need it
    import torch

    from cxrlt.training.job import FoldJob

CLASSES = ["Effusion", "Mass", "Hernia"]
"""Drawn as a disc, a bar and a small disc."""
SPEC = """
train: train.csv
dev: dev.csv
test: test.csv
id: image
patient: patient
study: study
view: view
classes: [Effusion, Mass, Hernia]
"""
BEST_WEIGHTS_FIELDS = {"predict.weights": "best", "checkpoint_minutes": 1e-9}
SOUP_FIELDS = {
    "soup": {"kind": "greedy", "snapshots": 2},
    "data.holdout_share": 0.25,
    "schedule.stages": ({"epochs": 1, "frozen": True},),
    "checkpoint_minutes": 1e-9,
}
"""Together they use frequent checkpoints, best weights, snapshots, stages and cached features."""


def make_tiny(
    root: Path,
    n_patients: int = 24,
    n_folds: int = 3,
    task: Task = "multi_label",
    *,
    with_images: bool = True,
) -> ImageSource:
    """Write tables, folds and images of the challenge below `root`. With images, test has no labels.

    In the single-label task every image has exactly one class, and the metric is macro-F1.
    """
    inputs = root / "inputs" / "csv"
    inputs.mkdir(parents=True)
    keys = ("path: path\n" if with_images else "") + f"task: {task}\n"
    (inputs / "challenge.yaml").write_text(SPEC + keys)
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("dev", 1000), ("test", 2000)):
        if with_images:
            table = draw_images(rng, inputs, range(first, first + n_patients), task)
            table = table.drop(columns=CLASSES) if split == "test" else table
        else:
            table = make_table(rng, split, n_patients, task)
        table.to_csv(inputs / f"{split}.csv", index=False)
    source = tiny_source(root)
    make_folds(source.challenge, source.workspace, n_folds)
    return source


def tiny_source(root: Path) -> ImageSource:
    """Return the source of the challenge that `make_tiny` wrote below `root`."""
    workspace = Workspace(root)
    return ImageSource(get_challenge("csv", workspace.inputs_dir("csv")), workspace)


def make_inputs(root: Path, images: Path) -> None:
    """Write tables and recipes below `root`, without folds, and the images to a separate folder.

    Copies of the root share the images, because the cache identifies files by path and modification time.
    """
    make_tiny(root, n_patients=12, n_folds=2)
    shutil.rmtree(root / "folds")
    images.mkdir()
    (root / "inputs" / "csv" / "pictures").rename(images / "pictures")
    for name, over in (("plain", BEST_WEIGHTS_FIELDS), ("souped", SOUP_FIELDS)):
        save_recipe(tiny_recipe(**over), root / f"{name}.yaml")


def tiny_recipe(**over: object) -> Recipe:
    """Return a recipe with a tiny network, 32 px and two epochs; `over` as in {"optim.lr": 1e-3}."""
    values = load_recipe("demo_resnet").model_dump()
    fields: dict[str, object] = {
        "model.backbone": "test_convnext",
        "data.size": 32,
        "schedule.epochs": 2,
        "optim.lr": 2e-3,
        "optim.batch_size": 8,
        "optim.ema_share": 0.5,  # the default would average only the last update
        **over,
    }
    for key, value in fields.items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, values)[name] = value
    return Recipe.model_validate(values)


def load_weights(job: "FoldJob") -> "dict[str, torch.Tensor]":
    """Return the weights of a finished fold."""
    from safetensors.torch import load_file

    return load_file(job.run_dir / "weights.safetensors")


def same_weights(a: "dict[str, torch.Tensor]", b: "dict[str, torch.Tensor]") -> bool:
    """Return whether two sets of weights are bit-identical."""
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def make_simulated_runs(
    root: Path, n_patients: int = 120, n_folds: int = 3, task: Task = "multi_label"
) -> "SimulatedRuns":
    """Write the challenge without images below `root`, without runs."""
    source = make_tiny(root, n_patients, n_folds, task, with_images=False)
    return SimulatedRuns(source.challenge, source.workspace)


@dataclass(frozen=True)
class SimulatedRuns:
    """A challenge with folds. `add_run` writes the files that training and prediction would write."""

    challenge: Challenge
    workspace: Workspace

    def copy(self, root: Path) -> "SimulatedRuns":
        """Return a copy below `root`, which a test may change."""
        shutil.copytree(self.workspace.root, root, dirs_exist_ok=True)
        return SimulatedRuns(self.challenge, Workspace(root))

    def table(self, split: str) -> pd.DataFrame:
        return self.challenge.read(split, self.workspace.inputs_dir("csv"))

    def write_truth(self, path: Path) -> Path:
        """Write the test labels to `path`, without patients and in another order than the template."""
        table = pd.read_csv(self.workspace.inputs_dir("csv") / "test.csv")[["image", *CLASSES]]
        table.sample(frac=1, random_state=0).to_csv(path, index=False)
        return path

    @property
    def current_data(self) -> CurrentData:
        return CurrentData(self.challenge, self.workspace)

    def record(self, name: str, fold: int, recipe: Recipe, current: CurrentData | None = None) -> RunRecord:
        """Return the run record that training would write for a fold."""
        rows = (current or self.current_data).rows
        return RunRecord(
            challenge="csv",
            name=name,
            fold=str(fold),
            seed=0,
            version=cxrlt.__version__,
            task=self.challenge.task,
            classes=self.challenge.classes,
            provenance=training_provenance(recipe, self.challenge, rows, fold, None),
        )

    def make_refit(self, name: str) -> None:
        """Turn fold 0 of a run into a refit on all rows."""
        run_dir = self.workspace.run_dir("csv", name)
        (run_dir / "fold0").rename(run_dir / "refit")
        for path in (run_dir / "refit").glob("*.parquet"):
            logits, meta = read_predictions(path, self.challenge.classes)
            write_fold_predictions(path.parent, logits, meta, self.current_data)

    def add_run(
        self,
        name: str,
        skill: float,
        seed: int = 0,
        *,
        recipe: Recipe = Recipe(),  # noqa: B008
        drift: float = 0.0,
        splits: tuple[str, ...] = ("oof", "dev", "test"),
    ) -> Path:
        """Write a run whose logits have a signal of `skill` on frontal images.

        `drift` shifts and scales the logits of fold k, in proportion to k.
        """
        rng = np.random.default_rng(seed)
        current = self.current_data
        tables = {split: self.table("train" if split == "oof" else split) for split in splits}
        for fold in range(current.folds.n_folds):
            directory = self.workspace.run_dir("csv", name) / f"fold{fold}"
            save_recipe(recipe, directory / "config.yaml")
            (directory / "weights.safetensors").touch()
            write_artifact(directory / "run.json", self.record(name, fold, recipe, current))
            for split, table in tables.items():
                if split == "oof":
                    table = table[current.rows.fold.loc[table.index] == fold]
                logits = make_logits(rng, table, self.challenge.classes, skill)
                logits = logits * (1 + drift * fold) + drift * fold
                meta = PredictionsMeta(fold=str(fold), epoch=recipe.predict.weights, split=split)
                write_fold_predictions(directory, logits, meta, current)
        return self.workspace.run_dir("csv", name)


def write_fold_predictions(
    directory: Path, logits: pd.DataFrame, meta: PredictionsMeta, current: CurrentData
) -> None:
    """Write the predictions of a fold with the current provenance, and for OOF their constants."""
    meta = meta.model_copy(update={"provenance": current.predictions_provenance(directory)})
    path = directory / f"{meta.split}.parquet"
    write_predictions(path, logits, meta)
    if meta.split == "oof":
        values = {"predictions": read_meta(path).values}
        write_constants(directory, logits, current.challenge.task, meta.provenance | values)


def remove_negative_labels(runs: SimulatedRuns, name: str, fold: int | None = None) -> None:
    """Replace the zeros of a class in the training table by blanks, in all rows or in one fold."""
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    fold_of = runs.current_data.rows.fold
    selected = True if fold is None else (table["image"].map(fold_of) == fold)
    table.assign(**{name: table[name].mask((table[name] == 0) & selected)}).to_csv(path, index=False)


def edit_parquet(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Rewrite a predictions file with other rows, columns or values, as valid predictions."""
    logits, meta = read_predictions(path, CLASSES)
    logits = change(logits)
    write_predictions(path, logits, meta)
    constants = path.parent / "constants.json"
    if path.name == "oof.parquet" and constants.is_file() and set(logits) == set(CLASSES):
        values = {"predictions": read_meta(path).values}
        ranges = json.loads(constants.read_text())["iqr"].values()
        task = "single_label" if set(ranges) == {1.0} else "multi_label"
        write_constants(path.parent, logits, task, meta.provenance | values)


def oof_score(challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series) -> float:
    """Return the challenge's metric over the pooled out-of-fold scores; `table` has the labels."""
    return macro_score(challenge, pool_oof_scores(scores, fold, challenge.task), table)


def shift_predictions(run_dir: Path) -> None:
    """Move a run's predictions of all splits towards and above 0.5, as losses for long tails do."""
    for path in run_dir.glob("fold*/*.parquet"):
        edit_parquet(path, lambda logits: 0.4 * logits + 0.5)


def draw_images(rng: np.random.Generator, inputs: Path, patients: range, task: Task) -> pd.DataFrame:
    """Write a frontal and a lateral image per patient, as one study. Return the table."""
    rows = [
        _draw_image(inputs, rng, patient, view, task) for patient in patients for view in ("PA", "LATERAL")
    ]
    return pd.DataFrame(rows)


def _draw_image(
    inputs: Path, rng: np.random.Generator, patient: int, view: str, task: Task
) -> dict[str, object]:
    image = rng.integers(20, 60, (40, 36)).astype(np.uint8)
    study_rng = np.random.default_rng(patient)  # one set of labels per study
    labels = study_rng.random(3) < (0.5, 0.4, 0.2)
    if task == "single_label":
        labels = np.eye(3, dtype=bool)[study_rng.choice(3, p=(0.5, 0.3, 0.2))]
    centre = tuple(int(v) for v in rng.integers(10, 26, 2))
    for present, radius in ((labels[0], 7), (labels[2], 3)):
        if present:
            cv2.circle(image, centre, radius, 220, -1)
    if labels[1]:
        cv2.line(image, (0, centre[1]), (35, centre[1]), 160, 3)
    image_id = f"{patient:05d}_{view.lower()}"
    path = inputs / "pictures" / f"{image_id}.png"
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), image)
    row = {"image": image_id, "patient": f"p{patient}", "study": f"s{patient}", "view": view}
    row["path"] = f"pictures/{image_id}.png"
    return row | dict(zip(CLASSES, labels.astype(int), strict=True))


def make_table(rng: np.random.Generator, prefix: str, n_patients: int, task: Task) -> pd.DataFrame:
    """Return a table with one to three studies per patient, one or two images per study, labels per study."""
    rows = []
    for patient in range(n_patients):
        for study in range(rng.integers(1, 4)):
            if task == "single_label":
                labels = np.eye(3, dtype=int)[rng.choice(3, p=(0.72, 0.22, 0.06))]
            else:
                labels = (rng.random(3) < (0.4, 0.15, 0.06)).astype(int)
            for view in ("PA", "LATERAL")[: rng.integers(1, 3)]:
                name = f"{prefix}{patient:03d}-{study}"
                rows.append((f"{name}-{view}", f"{prefix}p{patient}", name, view, *labels))
    return pd.DataFrame(rows, columns=["image", "patient", "study", "view", *CLASSES])


def make_logits(
    rng: np.random.Generator, table: pd.DataFrame, classes: tuple[str, ...], skill: float
) -> pd.DataFrame:
    labels = table[[*classes]].fillna(0).to_numpy()
    signal = labels * np.where(table["view"] == "frontal", skill, skill / 3)[:, None]
    noise = rng.normal(size=signal.shape)
    return pd.DataFrame((signal + noise - 2).astype(np.float32), index=table.index, columns=[*classes])
