"""What a challenge is: the rules of one competition and nothing else."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cxrlt.errors import UserError

if TYPE_CHECKING:  # the names of challenges are known without waiting for pandas
    import pandas as pd

METADATA = ("patient", "study", "view", "path")
VIEWS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "dev", "test")
# columns that tables and predictions have beside the classes
RESERVED = ("image_id", *METADATA, "file", "fold")
# what challenges usually call an image on which nothing was found
NO_FINDING = ("No Finding", "Normal")
HEAD_SHARE, TAIL_SHARE = 0.10, 0.01

Task = Literal["multi_label", "single_label"]
# what a challenge has unless it says otherwise
USUAL_METRIC: Mapping[Task, str] = {"multi_label": "mAP", "single_label": "macro-F1"}
USUAL_RECIPES: Mapping[Task, tuple[str, ...]] = {
    "multi_label": ("ral_convnext_small", "ral_efficientnetv2_s"),
    "single_label": ("lmf_efficientnetv2_s", "lmf_resnet50"),
}


@dataclass(frozen=True)
class Challenge(ABC):
    """The rules of one competition.

    `train_counts` are the positives per class in the official full training set of `train_images` rows;
    their order is the order of the classes, and they fix which classes are head, medium and tail.
    """

    name: str
    title: str
    train_counts: Mapping[str, int]
    train_images: int
    splits: tuple[str, ...]
    recipes: tuple[str, ...] = USUAL_RECIPES["multi_label"]
    n_folds: int = 5
    """How many folds unless the user says otherwise."""
    id_column: str = "dicom_id"
    """The ids' column in tables, and in submissions unless `template_id` names another."""
    template_id: str | None = None
    container: Literal["zip", "csv"] = "zip"
    """What the server takes: a zip with one CSV in it, or that CSV."""
    channels: Literal[1, 3] = 1
    """1: grey; 3: red, green and blue."""
    task: Task = "multi_label"
    """Whether a row has any number of classes or exactly one of them (the class columns are then one-hot)."""
    metric: str = USUAL_METRIC["multi_label"]
    """What models are compared by: one of metric_names(task)."""
    strict_patients: bool = False
    """A patient in train and in dev or test is an error (else a warning, as official splits are given)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the submission template's columns."""
        return tuple(self.train_counts)

    @property
    def no_finding(self) -> str | None:
        """The class of images on which nothing was found, if there is one.

        Case, blanks, hyphens and underscores do not matter; of several the one in its usual spelling, else
        the first.
        """
        usual = [name for name in self.classes if name in NO_FINDING]
        words = set(map(_without_separators, NO_FINDING))
        alike = [name for name in self.classes if _without_separators(name) in words]
        return next(iter(usual + alike), None)

    @property
    def submission_id(self) -> str:
        """The ids' column in submissions."""
        return self.template_id or self.id_column

    @property
    def submission_columns(self) -> tuple[str, ...]:
        """The columns of a submission, in order."""
        return (self.submission_id, *self.classes)

    @property
    def groups(self) -> dict[str, list[str]]:
        """head (> 10 % of the official training images), medium (1-10 %) and tail (< 1 %) classes."""
        groups: dict[str, list[str]] = {"head": [], "medium": [], "tail": []}
        for name, count in self.train_counts.items():
            share = count / self.train_images
            groups["head" if share > HEAD_SHARE else "tail" if share < TAIL_SHARE else "medium"].append(name)
        return groups

    def require(self, split: str) -> None:
        """Raises UserError naming the splits there are if `split` is not one of them."""
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}: it has {', '.join(self.splits)}.")

    @abstractmethod
    def read(self, split: str, inputs_dir: Path) -> "pd.DataFrame":
        """The table of `split`: index image_id; patient, study, view, path; a column per class.

        Class columns are float32: 1, 0, or NaN where unknown (all NaN in a split without labels).
        Raises UserError naming file and rows.
        """

    @abstractmethod
    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """The ids a submission for `split` must hold, in the order the server expects."""

    def notes(self, inputs_dir: Path) -> list[str]:
        """Sentences for the report of `cxrlt check`: what reading the tables decided and left out."""
        return []

    def image_folders(self) -> tuple[str, ...]:
        """Glob patterns, below the images folder, of the folders that `path` may be relative to."""
        return (".",)


def _without_separators(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
