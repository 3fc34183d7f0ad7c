"""CXR-LT 2026, task 1, on PadChest. Its counts are not published: they are those of its training table."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import SOURCE, CsvFile, read_classes, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import views
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.spelling import other_spellings

# in the order of Train_CLASS.txt, spelt as there
CLASSES = (
    "Normal",
    "aortic elongation",
    "cardiomegaly",
    "pleural effusion",
    "Nodule",
    "atelectasis",
    "pleural thickening",
    "aortic atheromatosis",
    "Support Devices",
    "alveolar pattern",
    "fracture",
    "Hernia",
    "Emphysema",
    "azygos lobe",
    "Hydropneumothorax",
    "Kyphosis",
    "Mass",
    "Pneumothorax",
    "Subcutaneous Emphysema",
    "pneumoperitoneo",
    "vascular hilar enlargement",
    "vertebral degenerative changes",
    "hyperinflated lung",
    "interstitial pattern",
    "central venous catheter",
    "hypoexpansion",
    "bronchiectasis",
    "hemidiaphragm elevation",
    "sternotomy",
    "calcified densities",
)
CLASS_FILE = "Train_CLASS.txt"
# the whole table first: what a filtered one lacks beside the removals depends on who filtered it
TRAIN_FILES = ("CXRLT_2026_training.csv", "CXRLT_2026_training_filtered.csv")
REMOVAL_FILE = "Removal.csv"
DEV_FILE = "CXRLT_2026_TEST_ALL_TASK1.csv"
EVALUATION_FILES = "CXRLT_2026_TEST*TASK1*.csv"
PADCHEST_FILE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
IMAGE, DATE, PATIENT, PROJECTION = "ImageID", "StudyDate_DICOM", "PatientID", "Projection"
OTHERWISE = f"Or put PadChest's own table, {PADCHEST_FILE}, beside it: patients are then read from there."
# in one folder, or in numbered ones as the archives of PadChest
IMAGE_FOLDERS = ("images", ".", "images/*", "[0-9]*")


@dataclass(frozen=True, kw_only=True)
class CxrLt2026(Challenge):
    """`tables` by split; the rows of `removal` are taken out of train.

    Patients, studies and views come from PadChest's own table where that is there. Else a study is what was
    taken of a patient on one day.
    """

    tables: Mapping[str, str]
    removal: str | None

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
        path = inputs_dir / self.tables[split]
        table = read_table(path, self.classes, labels_required=split == "train")
        if split == "train" and self.removal is not None:
            return table.drop(table.index.intersection(removed_ids(inputs_dir / self.removal)))
        return table

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """The ids of the split's table, in its order: that is the form to be filled in."""
        return self.read(split, inputs_dir).index.tolist()

    def notes(self, inputs_dir: Path) -> list[str]:
        return [f"train is {self.tables['train']}", self._removed(inputs_dir)]

    def _removed(self, inputs_dir: Path) -> str:
        if self.removal is None:
            return f"{REMOVAL_FILE} is not there; it should have been applied to the table already"
        path = inputs_dir / self.tables["train"]
        removed, train = removed_ids(inputs_dir / self.removal), image_ids(read_csv(path))
        found = int(train.isin(removed).sum())
        return (
            f"{self.removal} has {len(removed):,} images: {found:,} of {len(train):,} training rows are left "
            f"out, {len(removed) - found:,} are not in train anyway"
        )

    def image_folders(self) -> tuple[str, ...]:
        return IMAGE_FOLDERS


@challenge("cxrlt2026-task1", from_inputs=True)
def cxr_lt_2026(name: str, inputs_dir: Path) -> CxrLt2026:
    """The challenge of the tables in `inputs_dir`; its counts are those of the whole training table.

    Raises UserError if there is no training table, or a whole one without Removal.csv.
    """
    tables = find_tables(inputs_dir)
    has_removal = os.path.lexists(inputs_dir / REMOVAL_FILE)
    if not has_removal and tables["train"] == TRAIN_FILES[0]:
        raise MissingFileError(
            f"{inputs_dir / REMOVAL_FILE} does not exist: without it {tables['train']} holds images that are "
            f"evaluated on. {SOURCE}"
        )
    listed = inputs_dir / CLASS_FILE
    classes = read_classes(listed, CLASSES) if os.path.lexists(listed) else CLASSES
    file = read_csv(inputs_dir / tables["train"], unnamed=classes)
    labels = columns.labels(file, classes, required=True)
    return CxrLt2026(
        name=name,
        title="CXR-LT 2026 (ISBI), task 1",
        train_counts={name: int(labels[name].sum()) for name in classes},
        train_images=len(labels),
        splits=tuple(tables),
        id_column=IMAGE,
        tables=tables,
        removal=REMOVAL_FILE if has_removal else None,
    )


def find_tables(inputs_dir: Path) -> dict[str, str]:
    """File names by split. Raises UserError without a training table and for more than one of test."""
    train = [name for name in TRAIN_FILES if os.path.lexists(inputs_dir / name)]
    if not train:
        raise MissingFileError(f"{inputs_dir} holds neither {' nor '.join(TRAIN_FILES)}. {SOURCE}")
    others = sorted(path.name for path in inputs_dir.glob(EVALUATION_FILES))
    tables = {"train": train[0]} | ({"dev": DEV_FILE} if DEV_FILE in others else {})
    tests = [name for name in others if name != DEV_FILE]
    if len(tests) > 1:
        raise UserError(
            f"{inputs_dir} has more than one table that may be the test table: {listing(tests)}. Keep one."
        )
    return tables | ({"test": tests[0]} if tests else {})


def read_table(path: Path, classes: tuple[str, ...], *, labels_required: bool) -> pd.DataFrame:
    """A table as published: label columns of the evaluation tables have blank names, and blank cells."""
    file = read_csv(path, unnamed=classes)
    image_id = image_ids(file)
    padchest = path.parent / PADCHEST_FILE
    origin = (
        padchest_rows(padchest, image_id, path) if os.path.lexists(padchest) else own_rows(file, image_id)
    )
    return columns.contract_table(
        file,
        image_id=image_id,
        patient=origin["patient"],
        study=origin["study"],
        view=views(origin["projection"]),
        path=columns.paths(file, IMAGE),
        class_labels=columns.labels(file, classes, required=labels_required),
    )


def own_rows(file: CsvFile, image_id: pd.Series) -> pd.DataFrame:
    """patient, study and projection of every row, from the table itself; an undated image is a study."""
    patient = columns.ids(file, file.column(PATIENT), otherwise=OTHERWISE)
    # a date that was a number for a while is still the same date
    date = file.text(file.column(DATE)).str.removesuffix(".0")
    projection = file.optional_column(PROJECTION)
    return pd.DataFrame(
        {
            "patient": patient,
            "study": (patient + "/" + date).where(date != "", image_id),
            "projection": file.text(projection) if projection else "",
        }
    )


def padchest_rows(padchest: Path, image_id: pd.Series, path: Path) -> pd.DataFrame:
    """The same from PadChest's own table. Raises UserError if that lacks an image."""
    file = read_csv(padchest)
    image = file.text(file.column(IMAGE))
    if (missing := ~image_id.isin(image)).any():
        raise UserError(
            f"{padchest} lacks {missing.sum():,} of {len(image_id):,} images of {path.name}: "
            f"{listing(image_id[missing])}.{other_spellings(image_id[missing], image)} Is it the whole file?"
        )
    row_of = pd.Series(image.index, image).groupby(level=0).first()
    where = row_of.loc[image_id].tolist()
    patient = columns.ids(file, file.column(PATIENT), where=where)
    study = columns.ids(file, file.column("StudyID"), where=where)
    known = {"patient": patient, "study": patient + "/" + study}
    known["projection"] = file.text(file.column(PROJECTION)).loc[where]
    return pd.DataFrame(known).set_axis(image_id.index)


def image_ids(file: CsvFile) -> pd.Series:
    return columns.ids(file, file.column(IMAGE))


def removed_ids(path: Path) -> pd.Index:
    """The images of Removal.csv. Its patients are not looked at: an image is one of its own."""
    return pd.Index(image_ids(read_csv(path))).unique()
