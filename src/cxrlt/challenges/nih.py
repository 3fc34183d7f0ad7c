"""NIH ChestX-ray14 with its official split, and NIH-CXR-LT with its long-tailed labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import DEFAULT_METRIC, DEFAULT_RECIPES, Challenge
from cxrlt.challenges.csv_file import CsvFile, describe_rows, read_csv, read_first_csv, read_lines
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import parse_views
from cxrlt.errors import MissingFileError, UserError, listing, quoted
from cxrlt.spelling import did_you_mean, other_spellings

ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
NO_FINDING = "No Finding"
COPIES = {"rsna": (), "siim": ()}
"""Collections of later competitions that consist of images of NIH ChestX-ray14."""
IMAGE_FOLDERS = ("images_*/images", "images", "images_*", ".")
"""The archives unpack to images_001/images, or all into images; some copies have other folders."""

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
"""Positives among the 86,524 images of train_val_list.txt."""
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
"""Positives among the 78,506 training images, in the order of the label files."""
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
"""Positives among the 65,815 training images with exactly one class."""


class NihImages(Challenge):
    """Base class for both: image folders, and ids that are file names."""

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return IMAGE_FOLDERS


@dataclass(frozen=True, kw_only=True)
class Nih14(NihImages):
    """NIH ChestX-ray14. The tables do not have studies, so every image is its own study."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        list_path = inputs_dir / {"train": "train_val_list.txt", "test": "test_list.txt"}[split]
        listed = read_lines(list_path)
        entries = self._read_entries(read_entry_file(inputs_dir))
        if len(unknown := pd.Index(listed).difference(entries.index)):
            raise UserError(
                f"{list_path} lists images that are not in {read_entry_file(inputs_dir).path}: "
                f"{listing(unknown)}."
                f"{other_spellings(unknown, entries.index)}"
            )
        return entries.loc[listed]

    def _read_entries(self, file: CsvFile) -> pd.DataFrame:
        image_id = columns.read_ids(file, file.column(self.id_column))
        return columns.build_table(
            file,
            image_id=image_id,
            patient=columns.read_ids(file, file.column("Patient ID")),
            study=None,
            view=parse_views(file.text(file.column("View Position"))),
            path=columns.read_paths(file, self.id_column),
            class_labels=parse_findings(file, self.classes),
        )


def parse_findings(file: CsvFile, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return one float32 0/1 column per class, indexed by row number, from the column `Finding Labels`.

    That column joins names with |; No Finding is all 0. Raises UserError for an unknown finding, or for No
    Finding together with another one.
    """
    texts = file.text(file.column("Finding Labels"))
    names = {text: [name.strip() for name in text.split("|")] for text in texts.unique()}
    for text, found in names.items():
        for name in found:
            if name not in (*classes, NO_FINDING):
                hint = did_you_mean(name, classes)
                raise UserError(
                    f"{file.path}, column 'Finding Labels': unknown finding {quoted(name)}{hint} in "
                    f"{describe_rows(texts, texts == text)}. The findings are "
                    f"{listing((*classes, NO_FINDING), 20)}."
                )
        if NO_FINDING in found and len(found) > 1:
            where = describe_rows(texts, texts == text)
            raise UserError(
                f"{file.path}, column 'Finding Labels': No Finding together with a finding in {where}."
            )
    vectors = {text: [float(name in found) for name in classes] for text, found in names.items()}
    matrix = np.array(list(vectors.values()), np.float32)
    positions = texts.map({text: position for position, text in enumerate(vectors)})
    return pd.DataFrame(matrix[positions], texts.index, list(classes))


def read_entry_file(inputs_dir: Path) -> CsvFile:
    """Return the official table, of 2020 if it exists, else of 2017. Raises MissingFileError without one."""
    return read_first_csv(inputs_dir, ENTRY_FILES)


@dataclass(frozen=True, kw_only=True)
class NihLt(NihImages):
    """NIH-CXR-LT: the label files of 2023. Views come from the official table of NIH if it exists.

    The single-label task has the rows of the same files with exactly one class. The single-label files of
    2022 have another split and are not used.
    """

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        part = {"train": "train", "dev": "val", "test": "test"}[split]
        file = read_csv(inputs_dir / f"miccai2023_nih-cxr-lt_labels_{part}.csv")
        image_id = columns.read_ids(file, file.column(self.id_column))
        table = columns.build_table(
            file,
            image_id=image_id,
            patient=columns.read_ids(file, file.column("subj_id")),
            study=None,
            view=self._read_views(image_id, inputs_dir),
            path=columns.read_paths(file, self.id_column),
            class_labels=columns.read_labels(file, self.classes, required=True),
        )
        if self.task == "multi_label":
            return table
        return table[table[list(self.classes)].sum(axis=1, skipna=False) == 1]

    def _read_views(self, image_id: pd.Series, inputs_dir: Path) -> pd.Series | None:
        try:
            file = read_entry_file(inputs_dir)
        except MissingFileError:
            return None
        views = parse_views(file.text(file.column("View Position")))
        view_of_image = columns.by_image(file, file.text(file.column("Image Index")), views)
        return image_id.map(view_of_image).fillna("unknown")


@challenge("nih14")
def nih14(name: str) -> Nih14:
    """Return NIH ChestX-ray14: 14 classes, official split."""
    return Nih14(
        name=name,
        title="NIH ChestX-ray14, official split",
        train_counts=COUNTS_NIH14,
        train_images=86_524,
        splits=("train", "test"),
        id_column="Image Index",
        metric="mAUROC",
        image_sources={"nih14-train": ("train",), "nih14-test": ("test",), **COPIES},
    )


@challenge("nihlt")
def nihlt(name: str) -> NihLt:
    """Return NIH-CXR-LT: 20 classes, multi-label."""
    return NihLt(
        name=name,
        title="NIH-CXR-LT, multi-label",
        train_counts=COUNTS_NIHLT,
        train_images=78_506,
        splits=("train", "dev", "test"),
        id_column="id",
        image_sources={"nih14-train": ("train", "dev"), "nih14-test": ("dev", "test"), **COPIES},
    )


@challenge("nihlt-single")
def nihlt_single(name: str) -> NihLt:
    """Return NIH-CXR-LT with only the images that have exactly one class."""
    return replace(
        nihlt(name),
        title="NIH-CXR-LT, images with exactly one class",
        train_counts=COUNTS_NIHLT_SINGLE,
        train_images=65_815,
        task="single_label",
        metric=DEFAULT_METRIC["single_label"],
        recipes=DEFAULT_RECIPES["single_label"],
    )
