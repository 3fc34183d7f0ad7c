"""Runs that look trained: real tables, folds and predictions files, with made-up logits in them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import cxrlt
from cxrlt.artifacts import Workspace, write_model
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge, Task
from cxrlt.folds.make import make_folds
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import write_constants
from cxrlt.predictions.store import PredictionsMeta, read_meta, read_predictions, write_predictions
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.training.record import RunRecord, made_of_training

CLASSES = ("Effusion", "Mass", "Hernia")
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


def draw_table(
    rng: np.random.Generator, prefix: str, n_patients: int, task: Task = "multi_label"
) -> pd.DataFrame:
    """One to three studies per patient, of a frontal and at times a lateral image; labels per study."""
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


@dataclass(frozen=True)
class SimulatedRuns:
    """A challenge with folds, to which runs are added by writing what training and prediction would write."""

    challenge: Challenge
    workspace: Workspace

    def table(self, split: str) -> pd.DataFrame:
        return self.challenge.read(split, self.workspace.inputs_dir("csv"))

    @property
    def present(self) -> Present:
        return Present(self.challenge, self.workspace)

    def record(self, name: str, fold: int, recipe: Recipe) -> RunRecord:
        """What training would say of a fold."""
        return RunRecord(
            challenge="csv",
            name=name,
            fold=str(fold),
            seed=0,
            version=cxrlt.__version__,
            task=self.challenge.task,
            classes=self.challenge.classes,
            made_of=made_of_training(recipe, self.challenge, self.present.rows, fold, None),
        )

    def make_refit(self, name: str) -> None:
        """Fold 0 of a run becomes a refit on all rows."""
        run_dir = self.workspace.run_dir("csv", name)
        (run_dir / "fold0").rename(run_dir / "refit")
        for path in (run_dir / "refit").glob("*.parquet"):
            logits, meta = read_predictions(path, self.challenge.classes)
            write_fold(path.parent, logits, meta, self.present)

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
        """Logits with a signal of `skill` on frontal images; fold k's shifted and stretched by `drift`."""
        rng = np.random.default_rng(seed)
        present = self.present
        for fold in range(present.folds.n_folds):
            directory = self.workspace.run_dir("csv", name) / f"fold{fold}"
            save_recipe(recipe, directory / "config.yaml")
            (directory / "weights.safetensors").touch()
            write_model(directory / "run.json", self.record(name, fold, recipe))
            for split in splits:
                table = self.table("train" if split == "oof" else split)
                if split == "oof":
                    table = table[present.rows.fold.loc[table.index] == fold]
                logits = draw_logits(rng, table, skill) * (1 + drift * fold) + drift * fold
                meta = PredictionsMeta(fold=str(fold), epoch=recipe.predict.weights, split=split)
                write_fold(directory, logits, meta, present)
        return self.workspace.run_dir("csv", name)


def write_fold(directory: Path, logits: pd.DataFrame, meta: PredictionsMeta, present: Present) -> None:
    """What prediction of a fold would write: logits made of what there is now, and the constants of these."""
    meta = meta.model_copy(update={"made_of": present.made_of_predictions(directory)})
    path = directory / f"{meta.split}.parquet"
    write_predictions(path, logits, meta)
    if meta.split == "oof":
        values = {"predictions": read_meta(path).values}
        write_constants(directory, logits, present.challenge.task, meta.made_of | values)


def draw_logits(rng: np.random.Generator, table: pd.DataFrame, skill: float) -> pd.DataFrame:
    signal = (
        table[list(CLASSES)].fillna(0).to_numpy()
        * np.where(table["view"] == "frontal", skill, skill / 3)[:, None]
    )
    noise = rng.normal(size=signal.shape)
    return pd.DataFrame((signal + noise - 2).astype(np.float32), index=table.index, columns=list(CLASSES))


def set_up_challenge(
    root: Path, n_patients: int = 120, n_folds: int = 3, task: Task = "multi_label"
) -> SimulatedRuns:
    """Tables and folds of a challenge `csv` below `root`; with one class per row it is judged by macro F1."""
    inputs = root / "inputs" / "csv"
    inputs.mkdir(parents=True)
    (inputs / "challenge.yaml").write_text(SPEC + ("task: single_label\n" if task == "single_label" else ""))
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        table = draw_table(rng, split, n_patients, task)
        table.to_csv(inputs / f"{split}.csv", index=False)
    challenge, workspace = get_challenge("csv", inputs), Workspace(root)
    make_folds(challenge, workspace, n_folds)
    return SimulatedRuns(challenge, workspace)


def blank_negatives(runs: SimulatedRuns, name: str, fold: int | None = None) -> None:
    """Make blanks of a class's zeros in the training table: all of them, or those of one fold."""
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    fold_of = runs.present.rows.fold
    here = True if fold is None else (table["image"].map(fold_of) == fold)
    table.assign(**{name: table[name].mask((table[name] == 0) & here)}).to_csv(path, index=False)


def edit_parquet(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Rewrite a predictions file with other rows, columns or values, as if it had been predicted so."""
    logits, meta = read_predictions(path, CLASSES)
    logits = change(logits)
    write_predictions(path, logits, meta)
    constants = path.parent / "constants.json"
    if path.name == "oof.parquet" and constants.is_file() and set(logits) == set(CLASSES):
        values = {"predictions": read_meta(path).values}
        ranges = json.loads(constants.read_text())["iqr"].values()
        task = "single_label" if set(ranges) == {1.0} else "multi_label"
        write_constants(path.parent, logits, task, meta.made_of | values)


def squeeze(run_dir: Path) -> None:
    """Move a run's predictions, of all splits, towards and above .5, as a loss for long tails does."""
    for path in run_dir.glob("fold*/*.parquet"):
        edit_parquet(path, lambda logits: 0.4 * logits + 0.5)
