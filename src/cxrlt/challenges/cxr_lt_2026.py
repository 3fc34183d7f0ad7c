"""CXR-LT 2026, task 1, on PadChest. Class counts are not published; they are read from the training table."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import DOWNLOAD_HINT, CsvFile, read_classes, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import parse_views
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.spelling import other_spellings

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
"""In the order and spelling of Train_CLASS.txt."""
CLASS_FILE = "Train_CLASS.txt"
TRAIN_FILES = ("CXRLT_2026_training.csv", "CXRLT_2026_training_filtered.csv")
"""The full table is preferred: filtered tables differ in what else was removed."""
REMOVAL_FILE = "Removal.csv"
DEV_FILE = "CXRLT_2026_TEST_ALL_TASK1.csv"
EVALUATION_FILES = "CXRLT_2026_TEST*TASK1*.csv"
PADCHEST_FILE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
IMAGE, DATE, PATIENT, PROJECTION = "ImageID", "StudyDate_DICOM", "PatientID", "Projection"
PADCHEST_HINT = (
    f"Or put the table of PadChest, {PADCHEST_FILE}, into the same folder: patients are then read from it."
)
IMAGE_FOLDERS = ("images", ".", "images/*", "[0-9]*")
"""Images are in one folder, or in numbered folders as in the archives of PadChest."""


@dataclass(frozen=True, kw_only=True)
class CxrLt2026(Challenge):
    """CXR-LT 2026. `tables` are per split; images listed in `removal` are removed from train.

    Patients, studies and views come from the table of PadChest if it exists. Otherwise a study is all images
    of a patient from one day.
    """

    tables: Mapping[str, str]
    removal: str | None

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        path = inputs_dir / self.tables[split]
        table = read_table(path, self.classes, labels_required=split == "train")
        if split == "train" and self.removal is not None:
            return table.drop(table.index.intersection(read_removed_ids(inputs_dir / self.removal)))
        return table

    def notes(self, inputs_dir: Path) -> list[str]:
        """See `Challenge.notes`."""
        return [f"train is {self.tables['train']}", self._removal_note(inputs_dir)]

    def _removal_note(self, inputs_dir: Path) -> str:
        if self.removal is None:
            return f"{REMOVAL_FILE} does not exist; it must have been applied to the table already"
        path = inputs_dir / self.tables["train"]
        removed, train = read_removed_ids(inputs_dir / self.removal), read_image_ids(read_csv(path))
        found = int(train.isin(removed).sum())
        return (
            f"{self.removal} has {len(removed):,} images: {found:,} of {len(train):,} training rows are "
            f"removed, {len(removed) - found:,} are not in train"
        )

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return IMAGE_FOLDERS


@challenge("cxrlt2026-task1", from_inputs=True)
def cxr_lt_2026(name: str, inputs_dir: Path) -> CxrLt2026:
    """Return the challenge of the tables in `inputs_dir`; counts are those of the full training table.

    Raises UserError without a training table, or for the full one without Removal.csv.
    """
    tables = find_tables(inputs_dir)
    has_removal = os.path.lexists(inputs_dir / REMOVAL_FILE)
    if not has_removal and tables["train"] == TRAIN_FILES[0]:
        raise MissingFileError(
            f"{inputs_dir / REMOVAL_FILE} does not exist: without it {tables['train']} contains images of "
            f"the evaluation sets. {DOWNLOAD_HINT}"
        )
    class_path = inputs_dir / CLASS_FILE
    classes = read_classes(class_path, CLASSES) if os.path.lexists(class_path) else CLASSES
    file = read_csv(inputs_dir / tables["train"], unnamed=classes)
    labels = columns.read_labels(file, classes, required=True)
    return CxrLt2026(
        name=name,
        title="CXR-LT 2026 (ISBI), task 1",
        train_counts={name: int(labels[name].sum()) for name in classes},
        train_images=len(labels),
        splits=tuple(tables),
        id_column=IMAGE,
        image_sources={"padchest": (), "nih14": ("dev", "test")},
        tables=tables,
        removal=REMOVAL_FILE if has_removal else None,
    )


def find_tables(inputs_dir: Path) -> dict[str, str]:
    """Return the file name per split. Raises UserError without a train table, or for several test tables."""
    train = [name for name in TRAIN_FILES if os.path.lexists(inputs_dir / name)]
    if not train:
        raise MissingFileError(f"{inputs_dir} does not contain {' or '.join(TRAIN_FILES)}. {DOWNLOAD_HINT}")
    others = sorted(path.name for path in inputs_dir.glob(EVALUATION_FILES))
    tables = {"train": train[0]} | ({"dev": DEV_FILE} if DEV_FILE in others else {})
    tests = [name for name in others if name != DEV_FILE]
    if len(tests) > 1:
        raise UserError(f"{inputs_dir} has more than one possible test table: {listing(tests)}. Keep one.")
    return tables | ({"test": tests[0]} if tests else {})


def read_table(path: Path, classes: tuple[str, ...], *, labels_required: bool) -> pd.DataFrame:
    """Return the table of a published file, as `Challenge.read`.

    In the evaluation tables the names and cells of the label columns are blank.
    """
    file = read_csv(path, unnamed=classes)
    image_id = read_image_ids(file)
    padchest = path.parent / PADCHEST_FILE
    origin = (
        metadata_from_padchest(padchest, image_id, path)
        if os.path.lexists(padchest)
        else metadata_from_table(file, image_id)
    )
    return columns.build_table(
        file,
        image_id=image_id,
        patient=origin["patient"],
        study=origin["study"],
        view=parse_views(origin["projection"]),
        path=columns.read_paths(file, IMAGE),
        class_labels=columns.read_labels(file, classes, required=labels_required),
    )


def metadata_from_table(file: CsvFile, image_id: pd.Series) -> pd.DataFrame:
    """Return columns patient, study and projection, indexed by row number, from the table itself.

    An image without a date is its own study.
    """
    patient = columns.read_ids(file, file.column(PATIENT), hint=PADCHEST_HINT)
    # a spreadsheet may have turned the date into a float
    date = file.text(file.column(DATE)).str.removesuffix(".0")
    projection = file.optional_column(PROJECTION)
    return pd.DataFrame(
        {
            "patient": patient,
            "study": (patient + "/" + date).where(date != "", image_id),
            "projection": file.text(projection) if projection else "",
        }
    )


def metadata_from_padchest(padchest: Path, image_id: pd.Series, path: Path) -> pd.DataFrame:
    """Return the same columns from the table of PadChest. Raises UserError if an image is missing there."""
    file = read_csv(padchest)
    image = file.text(file.column(IMAGE))
    if (missing := ~image_id.isin(image)).any():
        raise UserError(
            f"{padchest} lacks {missing.sum():,} of {len(image_id):,} images of {path.name}: "
            f"{listing(image_id[missing])}.{other_spellings(image_id[missing], image)} Is it the whole file?"
        )
    row_of = pd.Series(image.index, image).groupby(level=0).first()
    row_numbers = row_of.loc[image_id].tolist()
    patient = columns.read_ids(file, file.column(PATIENT), row_numbers=row_numbers)
    study = columns.read_ids(file, file.column("StudyID"), row_numbers=row_numbers)
    metadata = {"patient": patient, "study": patient + "/" + study}
    metadata["projection"] = file.text(file.column(PROJECTION)).loc[row_numbers]
    return pd.DataFrame(metadata).set_axis(image_id.index)


def read_image_ids(file: CsvFile) -> pd.Series:
    """Return the image ids, indexed by row number. Raises UserError as `read_ids`."""
    return columns.read_ids(file, file.column(IMAGE))


def read_removed_ids(path: Path) -> pd.Index:
    """Return the unique image ids of Removal.csv. Other images of these patients stay."""
    return pd.Index(read_image_ids(read_csv(path))).unique()
