"""Fundus photographs: APTOS 2019 (grades of diabetic retinopathy) and ODIR-5K (eight diseases)."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import DEFAULT_METRIC, DEFAULT_RECIPES, Challenge
from cxrlt.challenges.csv_file import DOWNLOAD_HINT, CsvFile, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.xlsx_file import read_spreadsheet
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.metrics.odir import odir_score
from cxrlt.spelling import other_spellings

COUNTS_APTOS = {"No DR": 1805, "Mild": 370, "Moderate": 999, "Severe": 193, "Proliferative DR": 295}
"""Positives among the 3,662 training rows. The position of a class is its grade: 0 to 4."""
UNIQUE_FILES = ("trainLabels19_unique.csv", "extra_trainLabels19_unique.csv")
"""Names of a list of training rows without identical images."""
APTOS_FOLDERS = ("train_images", "test_images", "images", ".")

COUNTS_ODIR_EYES = {"N": 2873, "D": 1608, "G": 284, "C": 293, "A": 266, "H": 128, "M": 232, "O": 708}
"""Positives among the 6,392 training rows (eyes) of full_df.csv, in the order of its header."""
COUNTS_ODIR_PATIENTS = {"N": 2280, "D": 2256, "G": 430, "C": 424, "A": 328, "H": 206, "M": 348, "O": 1958}
"""Positives among the 7,000 training rows (two per patient) of the official table, in header order."""
EYE_FILE = "full_df.csv"
PATIENT_FILES = tuple(
    f"{folder}{name}{suffix}"
    for folder in ("", "ODIR-5K/", "ODIR-5K/ODIR-5K/")
    for name in ("ODIR-5K_Training_Annotations(Updated)_V2", "data")
    for suffix in (".csv", ".xlsx")
)
"""The official table, its name on Kaggle, and CSV files that were saved from them, which come first."""
ODIR_FOLDERS = (
    "ODIR-5K/Training Images",
    "ODIR-5K/ODIR-5K/Training Images",
    "Training Images",
    "ODIR-5K_Training_*",
    "preprocessed_images",
    "images",
    ".",
)


@dataclass(frozen=True, kw_only=True)
class Aptos(Challenge):
    """APTOS 2019. The tables have no patients, and images are in train more than once.

    `unique_file` is a list of training rows without identical images; all other rows are removed.
    """

    unique_file: str | None

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        table = self.read_table(split, inputs_dir)
        if self.unique_file is None or split != "train":
            return table
        return table.loc[self._unique_ids(inputs_dir / self.unique_file, table)]

    def read_table(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of all rows of `split`; of train, also those that `unique_file` removes."""
        file = read_csv(inputs_dir / f"{split}.csv")
        if split == "train":
            class_of = {str(grade): name for grade, name in enumerate(self.classes)}
            labels = columns.read_class_column(file, file.column("diagnosis"), class_of)
        else:
            labels = pd.DataFrame(np.float32(np.nan), file.row_numbers, list(self.classes), np.float32)
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, file.column(self.id_column)),
            patient=None,
            study=None,
            view=None,
            path=columns.read_paths(file, self.id_column, ".png"),
            class_labels=labels,
        )

    def _unique_ids(self, path: Path, table: pd.DataFrame) -> pd.Index:
        """Return the ids of the list in the order of `table`. Raises UserError for an unknown id."""
        file = read_csv(path)
        ids = pd.Index(columns.read_ids(file, file.column(self.id_column)))
        if len(unknown := ids.difference(table.index)):
            raise UserError(
                f"{path} has images that are not in train.csv: {listing(unknown)}."
                f"{other_spellings(unknown, table.index)}"
            )
        return table.index[table.index.isin(ids)]

    def notes(self, inputs_dir: Path) -> list[str]:
        """See `Challenge.notes`."""
        if self.unique_file is None:
            return [f"{UNIQUE_FILES[0]} does not exist: the folds keep identical images together"]
        table = self.read_table("train", inputs_dir)
        n_removed = len(table) - len(self._unique_ids(inputs_dir / self.unique_file, table))
        return [
            f"{self.unique_file}: {n_removed:,} of {len(table):,} training rows are removed, because they "
            "are not in this list of different images"
        ]

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return APTOS_FOLDERS


class OdirImages(Challenge):
    """Base class for both: only train has labels, and fellow eyes have the same patient."""

    def notes(self, inputs_dir: Path) -> list[str]:
        """See `Challenge.notes`."""
        patient = self.read("train", inputs_dir)["patient"]
        share = patient.duplicated(keep=False).mean()
        return [
            f"fellow eyes: of {share:.1%} of the {len(patient):,} images the other eye is in the set too; "
            "folds keep both eyes of a patient together"
        ]

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return ODIR_FOLDERS


@dataclass(frozen=True, kw_only=True)
class OdirEyes(OdirImages):
    """ODIR-5K with one label per eye, from Kaggle's full_df.csv."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        file = read_csv(inputs_dir / EYE_FILE)
        class_of = {f"['{name}']": name for name in self.classes}
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, file.column(self.id_column)),
            patient=columns.read_ids(file, file.column("ID")),
            study=None,
            view=None,
            path=columns.read_paths(file, self.id_column),
            class_labels=columns.read_class_column(file, file.column("labels"), class_of),
        )

    def notes(self, inputs_dir: Path) -> list[str]:
        """See `Challenge.notes`."""
        file = read_csv(inputs_dir / EYE_FILE)
        of_patient = columns.read_labels(file, self.classes, required=True).to_numpy()
        of_eye = self.read("train", inputs_dir)[list(self.classes)].to_numpy()
        n_differ = int(((of_eye == 1) & (of_patient != 1)).any(axis=1).sum())
        return [
            *super().notes(inputs_dir),
            f"labels: {self.name} reads the label of the eye; for {n_differ:,} of {len(of_eye):,} eyes the "
            f"columns {self.classes[0]} to {self.classes[-1]}, which describe the patient, do not contain it",
        ]


@dataclass(frozen=True, kw_only=True)
class OdirPatients(OdirImages):
    """ODIR-5K as published: labels per patient. The two eyes are a study with the labels of the patient."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        file = read_patient_file(inputs_dir)
        labels = columns.read_labels(file, self.classes, required=True)
        patient = columns.read_ids(file, file.column("ID"))
        eyes = [self._read_eye(file, column, patient, labels) for column in ("Left-Fundus", "Right-Fundus")]
        order = np.arange(2 * len(patient)).reshape(2, -1).T.ravel()
        table = pd.concat(eyes).iloc[order]
        if (twice := table.index[table.index.duplicated()]).size:
            raise UserError(f"{file.path} has the same image for two eyes: {listing(twice)}. Correct it.")
        return table

    def _read_eye(self, file: CsvFile, column: str, patient: pd.Series, labels: pd.DataFrame) -> pd.DataFrame:
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, file.column(column)),
            patient=patient,
            study=patient,
            view=None,
            path=columns.read_paths(file, column),
            class_labels=labels,
        )

    def score_notes(self, labels: pd.DataFrame, probabilities: Callable[[], pd.DataFrame]) -> list[str]:
        """Return a sentence with `odir_score`; both frames have index image_id."""
        scored = probabilities()
        values = odir_score(labels.loc[scored.index, list(self.classes)], scored)
        return ["ODIR-2019 " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())]


def read_patient_file(inputs_dir: Path) -> CsvFile:
    """Return the table of patients: CSV or xlsx. Raises MissingFileError without one."""
    for name in PATIENT_FILES:
        if os.path.lexists(inputs_dir / name):
            return read_spreadsheet(inputs_dir / name)
    names = listing(name for name in PATIENT_FILES if "/" not in name)
    raise MissingFileError(f"{inputs_dir} contains none of {names}. {DOWNLOAD_HINT}")


@challenge("aptos2019", from_inputs=True)
def aptos_2019(name: str, inputs_dir: Path) -> Aptos:
    """Return APTOS 2019: five grades of diabetic retinopathy."""
    found = [unique for unique in UNIQUE_FILES if os.path.lexists(inputs_dir / unique)]
    return Aptos(
        name=name,
        title="APTOS 2019 Blindness Detection",
        train_counts=COUNTS_APTOS,
        train_images=3_662,
        splits=("train", "test"),
        recipes=DEFAULT_RECIPES["single_label"],
        id_column="id_code",
        channels=3,
        augment_policy="fundus",
        task="single_label",
        metric="kappa",
        group_duplicates=not found,
        group_word="distinct image",
        unique_file=found[0] if found else None,
        image_sources={"aptos2019": ()},
    )


@challenge("odir5k")
def odir_5k(name: str) -> OdirEyes:
    """Return ODIR-5K, one class per eye."""
    return OdirEyes(
        name=name,
        title="ODIR-5K, one label per eye",
        train_counts=COUNTS_ODIR_EYES,
        train_images=6_392,
        splits=("train",),
        recipes=DEFAULT_RECIPES["single_label"],
        id_column="filename",
        channels=3,
        augment_policy="fundus",
        task="single_label",
        metric=DEFAULT_METRIC["single_label"],
        image_sources={"odir5k": ()},
    )


@challenge("odir5k-patient")
def odir_5k_patient(name: str) -> OdirPatients:
    """Return ODIR-5K, any number of classes per patient.

    The challenge ranks by `odir_score` of probabilities. It cannot compare models here, because out-of-fold
    scores are standardised per fold and class, which keeps ranks but not probabilities. So the metric is
    mAUROC, and evaluations have `odir_score` as a note.
    """
    return OdirPatients(
        name=name,
        title="ODIR-5K, labels per patient",
        train_counts=COUNTS_ODIR_PATIENTS,
        train_images=7_000,
        splits=("train",),
        id_column="filename",
        channels=3,
        augment_policy="fundus",
        metric="mAUROC",
        image_sources={"odir5k": ()},
    )
