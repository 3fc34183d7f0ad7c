"""A small `csv` challenge, real down to its files: for whole stages with pictures, for predictions without.

With pictures a network can be trained on it. Without, `SimulatedRuns` writes what training and prediction
would have left, with made-up logits.
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
from cxrlt.artifacts import Workspace, write_model
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge, Task
from cxrlt.folds.make import make_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import oof_scores, score_of, write_constants
from cxrlt.predictions.store import PredictionsMeta, read_meta, read_predictions, write_predictions
from cxrlt.recipe import Recipe, load_recipe, save_recipe
from cxrlt.training.record import RunRecord, made_of_training

if TYPE_CHECKING:  # torch takes seconds to import, and tests of predictions work without it
    import torch

    from cxrlt.training.job import FoldJob

CLASSES = ["Effusion", "Mass", "Hernia"]
"""In pictures a disc, a bar and a small disc."""
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
PLAIN = {"predict.weights": "best", "checkpoint_minutes": 1e-9}
SOUPED = {
    "soup": {"kind": "greedy", "snapshots": 2, "holdout_share": 0.25},
    "schedule.stages": ({"epochs": 1, "frozen": True},),
    "checkpoint_minutes": 1e-9,
}
"""Between them: checkpoints at every check of the loss, best weights, snapshots, stages and features."""


def make_tiny(
    root: Path, n_patients: int = 24, n_folds: int = 3, task: Task = "multi_label", *, pictures: bool = True
) -> ImageSource:
    """Tables and folds of the challenge below `root`, and its pictures. With pictures test has no labels.

    As a single-label task every image shows one of the classes, and macro-F1 judges.
    """
    inputs = root / "inputs" / "csv"
    inputs.mkdir(parents=True)
    keys = ("path: path\n" if pictures else "") + f"task: {task}\n"
    (inputs / "challenge.yaml").write_text(SPEC + keys)
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("dev", 1000), ("test", 2000)):
        if pictures:
            table = draw_pictures(rng, inputs, range(first, first + n_patients), task)
            table = table.drop(columns=CLASSES) if split == "test" else table
        else:
            table = draw_table(rng, split, n_patients, task)
        table.to_csv(inputs / f"{split}.csv", index=False)
    source = tiny_source(root)
    make_folds(source.challenge, source.workspace, n_folds)
    return source


def tiny_source(root: Path) -> ImageSource:
    """What `make_tiny` made below `root`."""
    workspace = Workspace(root)
    return ImageSource(get_challenge("csv", workspace.inputs_dir("csv")), workspace)


def make_inputs(root: Path, images: Path) -> None:
    """Tables and recipes below `root`, and the pictures in a folder of their own; no folds yet.

    The pictures are not copied with the root: a cache knows files by where they lie and when they changed.
    """
    make_tiny(root, n_patients=12, n_folds=2)
    shutil.rmtree(root / "folds")
    images.mkdir()
    (root / "inputs" / "csv" / "pictures").rename(images / "pictures")
    for name, over in (("plain", PLAIN), ("souped", SOUPED)):
        save_recipe(tiny_recipe(**over), root / f"{name}.yaml")


def tiny_recipe(**over: object) -> Recipe:
    """A network of a few thousand weights on 32 px for two epochs; `over` as {"optim.lr": 1e-3}."""
    values = load_recipe("demo_resnet").model_dump()
    fields: dict[str, object] = {
        "model.backbone": "test_convnext",
        "data.size": 32,
        "schedule.epochs": 2,
        "optim.lr": 2e-3,
        "optim.batch_size": 8,
        "optim.ema_share": 0.5,  # at its default the average of so few updates is the last one
        **over,
    }
    for key, value in fields.items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, values)[name] = value
    return Recipe.model_validate(values)


def weights_of(job: "FoldJob") -> "dict[str, torch.Tensor]":
    """What the finished fold was trained to."""
    from safetensors.torch import load_file

    return load_file(job.run_dir / "weights.safetensors")


def same(a: "dict[str, torch.Tensor]", b: "dict[str, torch.Tensor]") -> bool:
    """Whether two sets of weights are equal to the last bit."""
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def set_up_challenge(
    root: Path, n_patients: int = 120, n_folds: int = 3, task: Task = "multi_label"
) -> "SimulatedRuns":
    """The challenge without pictures below `root`, with no runs yet."""
    source = make_tiny(root, n_patients, n_folds, task, pictures=False)
    return SimulatedRuns(source.challenge, source.workspace)


@dataclass(frozen=True)
class SimulatedRuns:
    """A challenge with folds, to which runs are added by writing what training and prediction would write."""

    challenge: Challenge
    workspace: Workspace

    def copy(self, root: Path) -> "SimulatedRuns":
        """The same below `root`, where a test may change it."""
        shutil.copytree(self.workspace.root, root, dirs_exist_ok=True)
        return SimulatedRuns(self.challenge, Workspace(root))

    def table(self, split: str) -> pd.DataFrame:
        return self.challenge.read(split, self.workspace.inputs_dir("csv"))

    def write_truth(self, path: Path) -> Path:
        """The test split's labels at `path`, without patients, in another order than the template's."""
        table = pd.read_csv(self.workspace.inputs_dir("csv") / "test.csv")[["image", *CLASSES]]
        table.sample(frac=1, random_state=0).to_csv(path, index=False)
        return path

    @property
    def present(self) -> Present:
        return Present(self.challenge, self.workspace)

    def record(self, name: str, fold: int, recipe: Recipe, present: Present | None = None) -> RunRecord:
        """What training would say of a fold."""
        rows = (present or self.present).rows
        return RunRecord(
            challenge="csv",
            name=name,
            fold=str(fold),
            seed=0,
            version=cxrlt.__version__,
            task=self.challenge.task,
            classes=self.challenge.classes,
            made_of=made_of_training(recipe, self.challenge, rows, fold, None),
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
        tables = {split: self.table("train" if split == "oof" else split) for split in splits}
        for fold in range(present.folds.n_folds):
            directory = self.workspace.run_dir("csv", name) / f"fold{fold}"
            save_recipe(recipe, directory / "config.yaml")
            (directory / "weights.safetensors").touch()
            write_model(directory / "run.json", self.record(name, fold, recipe, present))
            for split, table in tables.items():
                if split == "oof":
                    table = table[present.rows.fold.loc[table.index] == fold]
                logits = draw_logits(rng, table, self.challenge.classes, skill)
                logits = logits * (1 + drift * fold) + drift * fold
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


def oof_score(challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series) -> float:
    """The challenge's metric over the pooled out-of-fold scores; `table` holds the labels."""
    return score_of(challenge, oof_scores(scores, fold, challenge.task), table)


def squeeze(run_dir: Path) -> None:
    """Move a run's predictions, of all splits, towards and above .5, as a loss for long tails does."""
    for path in run_dir.glob("fold*/*.parquet"):
        edit_parquet(path, lambda logits: 0.4 * logits + 0.5)


def draw_pictures(rng: np.random.Generator, inputs: Path, patients: range, task: Task) -> pd.DataFrame:
    """One study per patient, of a frontal and a lateral image, which shows the study's labels."""
    rows = [
        _draw_image(inputs, rng, patient, view, task) for patient in patients for view in ("PA", "LATERAL")
    ]
    return pd.DataFrame(rows)


def _draw_image(
    inputs: Path, rng: np.random.Generator, patient: int, view: str, task: Task
) -> dict[str, object]:
    picture = rng.integers(20, 60, (40, 36)).astype(np.uint8)
    study_rng = np.random.default_rng(patient)  # labels belong to the study
    labels = study_rng.random(3) < (0.5, 0.4, 0.2)
    if task == "single_label":
        labels = np.eye(3, dtype=bool)[study_rng.choice(3, p=(0.5, 0.3, 0.2))]
    centre = tuple(int(v) for v in rng.integers(10, 26, 2))
    for present, radius in ((labels[0], 7), (labels[2], 3)):
        if present:
            cv2.circle(picture, centre, radius, 220, -1)
    if labels[1]:
        cv2.line(picture, (0, centre[1]), (35, centre[1]), 160, 3)
    image_id = f"{patient:05d}_{view.lower()}"
    path = inputs / "pictures" / f"{image_id}.png"
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), picture)
    row = {"image": image_id, "patient": f"p{patient}", "study": f"s{patient}", "view": view}
    row["path"] = f"pictures/{image_id}.png"
    return row | dict(zip(CLASSES, labels.astype(int), strict=True))


def draw_table(rng: np.random.Generator, prefix: str, n_patients: int, task: Task) -> pd.DataFrame:
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


def draw_logits(
    rng: np.random.Generator, table: pd.DataFrame, classes: tuple[str, ...], skill: float
) -> pd.DataFrame:
    labels = table[[*classes]].fillna(0).to_numpy()
    signal = labels * np.where(table["view"] == "frontal", skill, skill / 3)[:, None]
    noise = rng.normal(size=signal.shape)
    return pd.DataFrame((signal + noise - 2).astype(np.float32), index=table.index, columns=[*classes])
