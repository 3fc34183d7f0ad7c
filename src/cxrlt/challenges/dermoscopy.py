"""Skin lesions: HAM10000, ISIC 2018 (task 3) and ISIC 2019. The column `patient` holds the lesion."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import DEFAULT_RECIPES, Challenge, Task
from cxrlt.challenges.csv_file import CsvFile, read_csv, read_first_csv
from cxrlt.challenges.registry import challenge, get_challenge
from cxrlt.errors import UserError, listing
from cxrlt.spelling import other_spellings

HAM_FILES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
"""Names of the same table on Kaggle and Dataverse; those of Dataverse are separated by commas or tabs."""
GROUPINGS_2018 = "ISIC2018_Task3_Training_LesionGroupings.csv"
TRUTH_2019 = {split: f"ISIC_2019_{split.title()}_GroundTruth.csv" for split in ("training", "test")}
METADATA_2019 = {split: f"ISIC_2019_{split.title()}_Metadata.csv" for split in ("training", "test")}
NO_LESION = "no lesion_id: "
"""Start of the group of an image without lesion_id: each is its own group."""
NAMES = ("ham10000", "isic2018", "isic2019")
OVERLAP = (
    "All 10,015 images of HAM10000 are also the training set of ISIC 2018 and a part of that of ISIC 2019 "
    "(akiec became AK in 130 images and SCC in 197), and the 1,705 validation and test images of ISIC 2018 "
    "are in the test set of ISIC 2019: never train on one of these sets and test on another."
)

COUNTS_HAM10000 = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
"""Positives among the 10,015 training rows, in alphabetical order: the table has no column per class."""
COUNTS_2018 = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}
"""Positives among the 10,015 training rows, in the order of the label files."""
COUNTS_2019 = {
    "MEL": 4522,
    "NV": 12875,
    "BCC": 3323,
    "AK": 867,
    "BKL": 2624,
    "DF": 239,
    "VASC": 253,
    "SCC": 628,
}
"""Positives among the 25,331 training rows, in the order of the label files.

UNK is not a class, as no training image has it.
"""


@dataclass(frozen=True, kw_only=True)
class Dermoscopy(Challenge):
    """Base class: `<image>.jpg` in one of `folders`, also with the folder repeated inside itself."""

    folders: tuple[str, ...]
    channels: Literal[1, 3] = 3
    augment_policy: Literal["medium", "dermoscopy", "fundus"] = "dermoscopy"
    task: Task = "single_label"
    recipes: tuple[str, ...] = DEFAULT_RECIPES["single_label"]
    id_column: str = "image"
    group_word: str = "lesion"
    wrong_copy: str = ""
    """A sentence about a known wrong copy of the training table, for notes about its number of rows."""

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return (*self.folders, *(f"{name}/{name}" for name in self.folders), "images", ".")

    def notes(self, inputs_dir: Path) -> list[str]:
        """Return notes about another number of rows, unknown lesions and the other sets."""
        lesion = self.read("train", inputs_dir)["patient"]
        notes = []
        if len(lesion) != self.train_images:
            notes.append(
                f"The training table has {len(lesion):,} rows; the official one has {self.train_images:,}. "
                f"{self.wrong_copy}Download it again unless you changed it."
            )
        if lesion.isna().all():
            notes.append(
                f"Lesions are unknown, so folds split images: put {GROUPINGS_2018} or {HAM_FILES[0]} into "
                f"{inputs_dir} to keep the images of one lesion in one fold."
            )
        if alone := int(lesion.str.startswith(NO_LESION).sum()):
            notes.append(f"{alone:,} training images have no lesion_id: each is its own lesion.")
        return [*notes, *(self._shared_images(inputs_dir) or [OVERLAP])]

    def _shared_images(self, inputs_dir: Path) -> list[str]:
        """Return a sentence per split of another set, beside `inputs_dir`, that has the same images."""
        mine = _image_ids(self, inputs_dir)
        notes = []
        for name in NAMES:
            if name == self.name:
                continue
            for other, theirs in _image_ids(get_challenge(name), inputs_dir.parent / name).items():
                counts = {split: len(ids.intersection(theirs)) for split, ids in mine.items()}
                shown = listing(f"{count:,} images of {split}" for split, count in counts.items() if count)
                if shown:
                    notes.append(
                        f"{shown} are also in {other} of {name}: never train on one and test on the other."
                    )
        return notes


def _image_ids(challenge: Challenge, inputs_dir: Path) -> dict[str, pd.Index]:
    """Return the image ids by split, without splits that cannot be read."""
    found = {}
    for split in challenge.splits:
        try:
            found[split] = challenge.read(split, inputs_dir).index
        except UserError:  # `cxrlt check` of that challenge reports it
            continue
    return found


def _read_lesions(image_id: pd.Series, file: CsvFile, image_column: str) -> pd.Series:
    """Return the lesion of every image, from the table `file`: index as `image_id`.

    An image without a lesion is its own group.
    Raises UserError for images that the table lacks.
    """
    images = columns.read_ids(file, file.column(image_column))
    texts = file.text(file.column("lesion_id"))
    known = columns.read_ids(file, "lesion_id", row_numbers=texts.index[texts != ""].tolist())
    lesion = columns.by_image(file, images, known.reindex(images.index).fillna(NO_LESION + images))
    _require_images(image_id, lesion.index, file.path)
    return image_id.map(lesion)


def _require_images(image_id: pd.Series, known: pd.Index, path: Path) -> None:
    """Raise UserError, with the first ten, for images that the file `path` lacks."""
    if len(missing := pd.Index(image_id).difference(known)):
        raise UserError(
            f"{path} lacks {len(missing):,} of {len(image_id):,} images: {listing(missing)}."
            f"{other_spellings(missing, known)} Are both files of the same release?"
        )


@dataclass(frozen=True, kw_only=True)
class Ham10000(Dermoscopy):
    """HAM10000. There is no official split, so all images are train."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of train (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        file = read_first_csv(inputs_dir, HAM_FILES)
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, file.column(self.id_column)),
            patient=columns.read_ids(file, file.column("lesion_id")),
            study=None,
            view=None,
            path=columns.read_paths(file, self.id_column, ".jpg"),
            class_labels=columns.read_class_column(
                file, file.column("dx"), {name: name for name in self.classes}
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Isic2018(Dermoscopy):
    """ISIC 2018, task 3. Lesions of validation and test were never published.

    Lesions of train come from the official groupings, else from the table of HAM10000 (the same images).
    """

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        part = {"train": "Training", "dev": "Validation", "test": "Test"}[split]
        file = read_csv(inputs_dir / f"ISIC2018_Task3_{part}_GroundTruth.csv")
        image_id = columns.read_ids(file, file.column(self.id_column))
        path = columns.read_paths(file, self.id_column, ".jpg")
        # by name, as scored copies have more columns: score_weight, validation_weight
        labels = columns.read_labels(file, self.classes, required=True, task=self.task)
        lesion = _lesions_2018(image_id, inputs_dir) if split == "train" else None
        return columns.build_table(file, image_id, lesion, None, None, path, labels)


def _lesions_2018(image_id: pd.Series, inputs_dir: Path) -> pd.Series | None:
    if os.path.lexists(inputs_dir / GROUPINGS_2018):
        return _read_lesions(image_id, read_csv(inputs_dir / GROUPINGS_2018), "image")
    if any(os.path.lexists(inputs_dir / name) for name in HAM_FILES):
        return _read_lesions(image_id, read_first_csv(inputs_dir, HAM_FILES), "image_id")
    return None


@dataclass(frozen=True, kw_only=True)
class Isic2019(Dermoscopy):
    """ISIC 2019. Images of the test set with the class UNK count as not annotated: they are not scored."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        file = read_csv(inputs_dir / (TRUTH_2019["training"] if split == "train" else METADATA_2019["test"]))
        image_id = columns.read_ids(file, file.column(self.id_column))
        path = columns.read_paths(file, self.id_column, ".jpg")
        if split == "train":
            labels = columns.read_labels(file, self.classes, required=True, task=self.task)
            lesion = _read_lesions(image_id, read_csv(inputs_dir / METADATA_2019["training"]), "image")
        else:
            labels, lesion = self._test_labels(image_id, inputs_dir / TRUTH_2019["test"]), None
        return columns.build_table(file, image_id, lesion, None, None, path, labels)

    def _test_labels(self, image_id: pd.Series, path: Path) -> pd.DataFrame:
        """Return the labels of the test images, indexed as `image_id`: NaN for UNK, and without the truth."""
        if not os.path.lexists(path):
            return pd.DataFrame(np.float32(np.nan), image_id.index, list(self.classes), dtype=np.float32)
        file = read_csv(path)
        images = columns.read_ids(file, file.column(self.id_column))
        labels = columns.read_labels(file, self.classes, required=True)
        unknown = columns.read_labels(file, ("UNK",), required=False)["UNK"] == 1
        labels[unknown & (labels == 0).all(axis=1)] = np.nan
        columns.require_one_hot(file, labels)
        labels = columns.by_image(file, images, labels)
        _require_images(image_id, labels.index, path)
        return labels.loc[image_id].set_axis(image_id.index)


@challenge("ham10000")
def ham10000(name: str) -> Ham10000:
    """Return HAM10000: 7 classes."""
    return Ham10000(
        name=name,
        title="HAM10000",
        train_counts=COUNTS_HAM10000,
        train_images=10_015,
        splits=("train",),
        folders=("HAM10000_images_part_[12]", "ham10000_images_part_[12]"),
        id_column="image_id",
        metric="macro-F1",
        image_sources=dict.fromkeys(NAMES, ()),
    )


@challenge("isic2018")
def isic2018(name: str) -> Isic2018:
    """Return ISIC 2018, task 3: 7 classes, official validation and test sets."""
    return Isic2018(
        name=name,
        title="ISIC 2018, task 3",
        train_counts=COUNTS_2018,
        train_images=10_015,
        splits=("train", "dev", "test"),
        folders=tuple(f"ISIC2018_Task3_{part}_Input" for part in ("Training", "Validation", "Test")),
        wrong_copy="A wrong public copy has 7,470 rows (one per lesion) and another column order. ",
        metric="balanced-accuracy",
        image_sources={"ham10000": ("train",), "isic2018": (), "isic2019": ()},
    )


@challenge("isic2019")
def isic2019(name: str) -> Isic2019:
    """Return ISIC 2019: 8 classes, official test set."""
    return Isic2019(
        name=name,
        title="ISIC 2019",
        train_counts=COUNTS_2019,
        train_images=25_331,
        splits=("train", "test"),
        folders=("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
        metric="balanced-accuracy",
        image_sources={"ham10000": ("train",), "isic2018": (), "isic2019": ()},
    )
