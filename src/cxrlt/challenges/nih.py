"""NIH ChestX-ray14 with its official lists, and NIH-CXR-LT, its long-tailed relabelling."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import USUAL_METRIC, USUAL_RECIPES, Challenge
from cxrlt.challenges.csv_file import SOURCE, CsvFile, read_csv, read_lines, rows
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import views
from cxrlt.errors import MissingFileError, UserError, listing, quoted
from cxrlt.spelling import nearest, other_spellings

ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
NO_FINDING = "No Finding"
# the archives unpack to images_001/images or all into images; some people flatten them
IMAGE_FOLDERS = ("images_*/images", "images", "images_*", ".")

# positives among the 86,524 images of train_val_list.txt
COUNTS_NIH14 = {
    "Atelectasis": 8280,
    "Cardiomegaly": 1707,
    "Effusion": 8659,
    "Infiltration": 13782,
    "Mass": 4034,
    "Nodule": 4708,
    "Pneumonia": 876,
    "Pneumothorax": 2637,
    "Consolidation": 2852,
    "Edema": 1378,
    "Emphysema": 1423,
    "Fibrosis": 1251,
    "Pleural_Thickening": 2242,
    "Hernia": 141,
}
# positives among the 78,506 training images, in the order of the label files
COUNTS_NIHLT = {
    "Atelectasis": 7587,
    "Cardiomegaly": 1590,
    "Consolidation": 2626,
    "Edema": 1283,
    "Effusion": 7919,
    "Emphysema": 1327,
    "Fibrosis": 1138,
    "Hernia": 130,
    "Infiltration": 12739,
    "Mass": 3689,
    "Nodule": 4359,
    "Pleural Thickening": 1998,
    "Pneumonia": 806,
    "Pneumothorax": 2432,
    "Pneumoperitoneum": 214,
    "Pneumomediastinum": 88,
    "Subcutaneous Emphysema": 957,
    "Tortuous Aorta": 598,
    "Calcification of the Aorta": 368,
    "No Finding": 44625,
}
# the same among the 65,815 training images with exactly one of the classes
COUNTS_NIHLT_SINGLE = {
    "Atelectasis": 2985,
    "Cardiomegaly": 692,
    "Consolidation": 760,
    "Edema": 369,
    "Effusion": 2532,
    "Emphysema": 260,
    "Fibrosis": 496,
    "Hernia": 58,
    "Infiltration": 6699,
    "Mass": 1555,
    "Nodule": 2056,
    "Pleural Thickening": 711,
    "Pneumonia": 213,
    "Pneumothorax": 1108,
    "Pneumoperitoneum": 82,
    "Pneumomediastinum": 15,
    "Subcutaneous Emphysema": 44,
    "Tortuous Aorta": 387,
    "Calcification of the Aorta": 168,
    "No Finding": 44625,
}


class NihImages(Challenge):
    """What the two share: where images lie, and ids that are file names."""

    def image_folders(self) -> tuple[str, ...]:
        return IMAGE_FOLDERS

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """There is no sample submission: the ids of the split in the order of its official file."""
        return self.read(split, inputs_dir).index.tolist()


@dataclass(frozen=True, kw_only=True)
class Nih14(NihImages):
    """Labels are per image and hospitals' studies are not told apart, so every image is its own study."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
        list_path = inputs_dir / {"train": "train_val_list.txt", "test": "test_list.txt"}[split]
        listed = read_lines(list_path)
        entries = self._read_entries(entry_file(inputs_dir))
        if len(unknown := pd.Index(listed).difference(entries.index)):
            raise UserError(
                f"{list_path} lists images that {entry_file(inputs_dir).path} lacks: {listing(unknown)}."
                f"{other_spellings(unknown, entries.index)}"
            )
        return entries.loc[listed]

    def _read_entries(self, file: CsvFile) -> pd.DataFrame:
        image_id = columns.ids(file, file.column(self.id_column))
        return columns.contract_table(
            file,
            image_id=image_id,
            patient=columns.ids(file, file.column("Patient ID")),
            study=None,
            view=views(file.text(file.column("View Position"))),
            path=columns.paths(file, self.id_column),
            class_labels=findings(file, self.classes),
        )


def findings(file: CsvFile, classes: tuple[str, ...]) -> pd.DataFrame:
    """The 0/1 columns behind `Finding Labels`, which joins names with |; No Finding is all zero."""
    texts = file.text(file.column("Finding Labels"))
    names = {text: [name.strip() for name in text.split("|")] for text in texts.unique()}
    for text, found in names.items():
        for name in found:
            if name not in (*classes, NO_FINDING):
                hint = f" (nearest: {near!r})" if (near := nearest(name, classes)) else ""
                raise UserError(
                    f"{file.path}, column 'Finding Labels': unknown finding {quoted(name)}{hint} in "
                    f"{rows(texts, texts == text)}. The findings are {listing((*classes, NO_FINDING), 20)}."
                )
        if NO_FINDING in found and len(found) > 1:
            where = rows(texts, texts == text)
            raise UserError(f"{file.path}, column 'Finding Labels': No Finding beside a finding in {where}.")
    vectors = {text: [float(name in found) for name in classes] for text, found in names.items()}
    matrix = np.array(list(vectors.values()), np.float32)
    positions = texts.map({text: position for position, text in enumerate(vectors)})
    return pd.DataFrame(matrix[positions], texts.index, list(classes))


def entry_file(inputs_dir: Path) -> CsvFile:
    """The official table, in the revision of 2020 if that is there."""
    for name in ENTRY_FILES:
        if os.path.lexists(inputs_dir / name):
            return read_csv(inputs_dir / name)
    raise MissingFileError(f"{inputs_dir} holds neither {' nor '.join(ENTRY_FILES)}. {SOURCE}")


@dataclass(frozen=True, kw_only=True)
class NihLt(NihImages):
    """The lists of 2023; views come from the official table where that is there.

    As a single-label task it is the rows of the same lists that have exactly one of the classes. The
    single-label lists of 2022 split the images otherwise and are not read.
    """

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
        part = {"train": "train", "dev": "val", "test": "test"}[split]
        file = read_csv(inputs_dir / f"miccai2023_nih-cxr-lt_labels_{part}.csv")
        image_id = columns.ids(file, file.column(self.id_column))
        table = columns.contract_table(
            file,
            image_id=image_id,
            patient=columns.ids(file, file.column("subj_id")),
            study=None,
            view=self._views(image_id, inputs_dir),
            path=columns.paths(file, self.id_column),
            class_labels=columns.labels(file, self.classes, required=True),
        )
        if self.task == "multi_label":
            return table
        return table[table[list(self.classes)].sum(axis=1, skipna=False) == 1]

    def _views(self, image_id: pd.Series, inputs_dir: Path) -> pd.Series | None:
        try:
            file = entry_file(inputs_dir)
        except MissingFileError:
            return None
        images = file.text(file.column("Image Index"))
        if (twice := images.duplicated(keep=False)).any():
            raise UserError(f"{file.path} has more than one row for an image: {rows(images, twice)}.")
        of_image = views(file.text(file.column("View Position")))
        of_image.index = images
        return image_id.map(of_image).fillna("unknown")


@challenge("nih14")
def nih14(name: str) -> Nih14:
    return Nih14(
        name=name,
        title="NIH ChestX-ray14, official split",
        train_counts=COUNTS_NIH14,
        train_images=86_524,
        splits=("train", "test"),
        id_column="Image Index",
        metric="mAUROC",
    )


@challenge("nihlt")
def nihlt(name: str) -> NihLt:
    return NihLt(
        name=name,
        title="NIH-CXR-LT, multi-label",
        train_counts=COUNTS_NIHLT,
        train_images=78_506,
        splits=("train", "dev", "test"),
        id_column="id",
    )


@challenge("nihlt-single")
def nihlt_single(name: str) -> NihLt:
    return replace(
        nihlt(name),
        title="NIH-CXR-LT, images with exactly one class",
        train_counts=COUNTS_NIHLT_SINGLE,
        train_images=65_815,
        task="single_label",
        metric=USUAL_METRIC["single_label"],
        recipes=USUAL_RECIPES["single_label"],
    )
