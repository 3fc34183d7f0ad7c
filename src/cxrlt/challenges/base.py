"""The base class of challenges: classes, splits, metric and submission format of one competition."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cxrlt.errors import UserError

if TYPE_CHECKING:  # `cxrlt --help` does not wait for pandas
    import pandas as pd

METADATA_COLUMNS = ("patient", "study", "view", "path")
VIEWS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "dev", "test")
RESERVED_COLUMNS = ("image_id", *METADATA_COLUMNS, "file", "fold")
"""Columns of tables and predictions that are not classes."""
NO_FINDING = ("No Finding", "Normal")
"""Usual names of the class for images without a finding."""
HEAD_SHARE, TAIL_SHARE = 0.10, 0.01
"""Limits of head and tail classes, as shares of the training images: our choice, used for all challenges."""

Task = Literal["multi_label", "single_label"]
SplitBy = Literal["patient", "image"]
"""What a fold keeps whole: patients (or lesions), or only images, which leaks if a patient has several."""
DEFAULT_METRIC: Mapping[Task, str] = {"multi_label": "mAP", "single_label": "macro-F1"}
DEFAULT_RECIPES: Mapping[Task, tuple[str, ...]] = {
    "multi_label": ("ral_convnext_small", "ral_efficientnetv2_s"),
    "single_label": ("lmf_efficientnetv2_s", "lmf_resnet50"),
}


@dataclass(frozen=True)
class Challenge(ABC):
    """The rules of one competition.

    `train_counts` are the positives per class in the official training set of `train_images` rows. They set
    the order of the classes, and which classes are head, medium and tail.
    """

    name: str
    title: str
    train_counts: Mapping[str, int]
    train_images: int
    splits: tuple[str, ...]
    recipes: tuple[str, ...] = DEFAULT_RECIPES["multi_label"]
    n_folds: int = 5
    """Default number of folds."""
    id_column: str = "dicom_id"
    """Name of the id column in tables, and in submissions if `template_id` is None."""
    template_id: str | None = None
    """Name of the id column in submissions, if it differs."""
    container: Literal["zip", "csv"] = "zip"
    """File type that the server accepts: a zip file with one CSV file in it, or the CSV file."""
    channels: Literal[1, 3] = 1
    """1: greyscale; 3: RGB."""
    task: Task = "multi_label"
    """multi_label: any number of classes per row. single_label: exactly one; class columns are one-hot."""
    metric: str = DEFAULT_METRIC["multi_label"]
    """The metric of the leaderboard, of ensembles and of comparisons: one of metric_names(task)."""
    strict_patients: bool = False
    """A patient both in train and in dev or test is an error. Off: a warning."""
    group_duplicates: bool = False
    """The folds keep identical images together. For data sets without patients and with duplicate images."""
    augment_policy: Literal["medium", "dermoscopy", "fundus"] = "medium"
    """The augmentation policy that fits the images."""
    group_word: str = "patient"
    """What the column `patient` holds, in messages: images of one group stay in one fold."""
    image_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Public collections that the images come from -> the splits with their images; () means all splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the column order of the submission template."""
        return tuple(self.train_counts)

    @property
    def no_finding(self) -> str | None:
        """The class of images without a finding, or None.

        Case, blanks, hyphens and underscores are ignored. If several classes match, an exact match comes
        first, then the order of the classes.
        """
        exact = [name for name in self.classes if name in NO_FINDING]
        words = set(map(_without_separators, NO_FINDING))
        similar = [name for name in self.classes if _without_separators(name) in words]
        return next(iter(exact + similar), None)

    def splits_from(self, collection: str) -> list[str]:
        """Return the splits with images of a collection; one name may be the start of the other.

        So nih14 also stands for nih14-train and nih14-test, and the other way round.
        """
        name = collection.lower()
        found = [
            splits or self.splits
            for source, splits in self.image_sources.items()
            if source.startswith(name) or name.startswith(source)
        ]
        return [split for split in self.splits if any(split in splits for splits in found)]

    @property
    def submission_id(self) -> str:
        """Name of the id column in submissions."""
        return self.template_id or self.id_column

    @property
    def submission_columns(self) -> tuple[str, ...]:
        """The columns of a submission, in order."""
        return (self.submission_id, *self.classes)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Classes per group: head (> 10 % of the official training images), medium (1-10 %), tail (< 1 %)."""
        groups: dict[str, list[str]] = {"head": [], "medium": [], "tail": []}
        for name, count in self.train_counts.items():
            share = count / self.train_images
            groups["head" if share > HEAD_SHARE else "tail" if share < TAIL_SHARE else "medium"].append(name)
        return groups

    def require_split(self, split: str) -> None:
        """Raise UserError, with the existing splits, if `split` is not one of them."""
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}: it has {', '.join(self.splits)}.")

    @abstractmethod
    def read(self, split: str, inputs_dir: Path) -> "pd.DataFrame":
        """Return the table of `split`: index image_id; columns patient, study, view, path and one per class.

        Class columns are float32: 1, 0, or NaN for unknown (all NaN in a split without labels).
        Raises UserError with file and rows for anything wrong in the files.
        """

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """Return the ids that a submission for `split` must contain, in the order that the server expects.

        Here: the ids of the table in its order, for challenges without a sample submission.
        """
        return self.read(split, inputs_dir).index.tolist()

    def notes(self, inputs_dir: Path) -> list[str]:
        """Return sentences for the report of `cxrlt check`, for example about rows that were removed."""
        return []

    def score_notes(self, labels: "pd.DataFrame", probabilities: "Callable[[], pd.DataFrame]") -> list[str]:
        """Return sentences for an evaluation, for example with a score that is not in the metric registry.

        `labels` has the class columns (index image_id). `probabilities` computes those of the scored rows,
        with the same index and columns: a function, because it takes time and few challenges need them.
        """
        return []

    def image_folders(self) -> tuple[str, ...]:
        """Return glob patterns of the folders, inside the images folder, that `path` can be relative to."""
        return (".",)


def _without_separators(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
