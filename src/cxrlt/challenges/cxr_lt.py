"""CXR-LT 2023 and 2024 on MIMIC-CXR-JPG, and the demos in the same layout."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import DEFAULT_METRIC, Challenge
from cxrlt.challenges.csv_file import DOWNLOAD_HINT, read_classes, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import parse_views
from cxrlt.errors import UserError, listing
from cxrlt.spelling import other_spellings

CLASS_FILE = "EVAL_CLASSES.txt"
PATH_COLUMNS = ("path", "fpath")
VIEW_COLUMNS = ("ViewPosition", "ViewCodeSequence_CodeMeaning")
"""ViewPosition is blank in one image of 24; the second column often has the view of these."""

COUNTS_2023 = {
    "Atelectasis": 67597,
    "Calcification of the Aorta": 4361,
    "Cardiomegaly": 76900,
    "Consolidation": 16038,
    "Edema": 38574,
    "Emphysema": 4255,
    "Enlarged Cardiomediastinum": 30119,
    "Fibrosis": 1158,
    "Fracture": 11883,
    "Hernia": 4049,
    "Infiltration": 10218,
    "Lung Lesion": 2533,
    "Lung Opacity": 79931,
    "Mass": 5529,
    "No Finding": 41869,
    "Nodule": 7663,
    "Pleural Effusion": 69240,
    "Pleural Other": 675,
    "Pleural Thickening": 3369,
    "Pneumomediastinum": 788,
    "Pneumonia": 48093,
    "Pneumoperitoneum": 543,
    "Pneumothorax": 14983,
    "Subcutaneous Emphysema": 2453,
    "Support Devices": 89140,
    "Tortuous Aorta": 3499,
}
"""Positives among the 264,849 training images of CXR-LT 2023, in the order of the template."""
COUNTS_2024 = {
    "Adenopathy": 3409,
    "Atelectasis": 65376,
    "Azygos Lobe": 199,
    "Calcification of the Aorta": 4239,
    "Cardiomegaly": 74738,
    "Clavicle Fracture": 168,
    "Consolidation": 15371,
    "Edema": 37256,
    "Emphysema": 3661,
    "Enlarged Cardiomediastinum": 29628,
    "Fibrosis": 1169,
    "Fissure": 2803,
    "Fracture": 11568,
    "Granuloma": 2965,
    "Hernia": 3986,
    "Hydropneumothorax": 646,
    "Infarction": 727,
    "Infiltration": 10087,
    "Kyphosis": 778,
    "Lobar Atelectasis": 129,
    "Lung Lesion": 2338,
    "Lung Opacity": 77482,
    "Mass": 5288,
    "Nodule": 7531,
    "Normal": 34292,
    "Pleural Effusion": 66401,
    "Pleural Other": 616,
    "Pleural Thickening": 3272,
    "Pneumomediastinum": 704,
    "Pneumonia": 46660,
    "Pneumoperitoneum": 516,
    "Pneumothorax": 13858,
    "Pulmonary Embolism": 1631,
    "Pulmonary Hypertension": 903,
    "Rib Fracture": 8919,
    "Round(ed) Atelectasis": 172,
    "Subcutaneous Emphysema": 2046,
    "Support Devices": 86079,
    "Tortuous Aorta": 3336,
    "Tuberculosis": 2078,
}
"""Positives among the 258,871 training images of CXR-LT 2024, in the order of the template of task 1."""
TASK2_CLASSES = tuple("Normal" if name == "No Finding" else name for name in COUNTS_2023)
"""Task 2 has the class order of 2023, with Normal in the place of No Finding: before Nodule."""


@dataclass(frozen=True, kw_only=True)
class CxrLt(Challenge):
    """A CXR-LT challenge. `tables`, `labeled` (tables with labels) and `samples` (templates) are per split.

    If only the labelled table of a split exists, it is used for both. `kits` are glob patterns of the
    starting kits of the server, which are searched first, because the kits of two tasks have files with the
    same names. `missing_hint` ends the error for a missing table.
    """

    tables: Mapping[str, str]
    samples: Mapping[str, str]
    labeled: Mapping[str, str] = field(default_factory=dict)
    kits: tuple[str, ...] = ()
    missing_hint: str = DOWNLOAD_HINT

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        table_path = self._find(inputs_dir, self.tables[split])
        labeled_path = self._find(inputs_dir, self.labeled.get(split, self.tables[split]))
        if labeled_path == table_path or not os.path.lexists(labeled_path):
            return self._read_table(table_path, labels_required=split == "train")
        truth = self._read_table(labeled_path, labels_required=True)
        if not os.path.lexists(table_path):
            return truth
        table = self._read_table(table_path, labels_required=False)
        if len(stray := truth.index.difference(table.index)):
            raise UserError(
                f"{labeled_path} has images that are not in {table_path}: {listing(stray)}."
                f"{other_spellings(stray, table.index)}"
            )
        table[list(self.classes)] = truth[list(self.classes)].reindex(table.index)
        return table

    def _read_table(self, path: Path, labels_required: bool) -> pd.DataFrame:
        file = read_csv(path, self.missing_hint)
        projections = [file.text(found) for name in VIEW_COLUMNS if (found := file.optional_column(name))]
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, file.column(self.id_column)),
            patient=columns.read_ids(file, file.column("subject_id")),
            study=columns.read_ids(file, file.column("study_id")),
            view=parse_views(*projections) if projections else None,
            path=columns.read_paths(file, file.column(*PATH_COLUMNS)),
            class_labels=columns.read_labels(file, self.classes, labels_required, self.task),
        )

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """Return the ids of the sample submission, or of the table without one, in file order.

        Raises UserError for a starting kit with other classes or another order of classes.
        """
        self.require_split(split)
        self._check_kits(inputs_dir)
        if split in self.samples and os.path.lexists(path := self._find(inputs_dir, self.samples[split])):
            return columns.read_template_ids(self, path)
        return self.read(split, inputs_dir).index.tolist()

    def _find(self, inputs_dir: Path, name: str) -> Path:
        """Return the path of a file in a starting kit or in `inputs_dir`; the latter if it does not exist."""
        paths = (folder / name for folder in self._kit_folders(inputs_dir) if os.path.lexists(folder / name))
        return next(paths, inputs_dir / name)

    def _kit_folders(self, inputs_dir: Path) -> list[Path]:
        return [folder for kit in self.kits for folder in sorted(inputs_dir.glob(kit))]

    def _check_kits(self, inputs_dir: Path) -> None:
        for folder in self._kit_folders(inputs_dir):
            path = folder / CLASS_FILE
            if os.path.lexists(path) and (found := read_classes(path, self.classes)) != self.classes:
                place = next(k for k, name in enumerate(self.classes) if found[k] != name)
                raise UserError(
                    f"{path} has the classes of {self.name} in another order: line {place + 1} is "
                    f"{found[place]!r}, but should be {self.classes[place]!r}. Use the original file."
                )


@challenge("cxrlt2023")
def cxr_lt_2023(name: str) -> CxrLt:
    """Return CXR-LT 2023: 26 classes, MIMIC-CXR-JPG."""
    return CxrLt(
        name=name,
        title="CXR-LT 2023 (ICCV CVAMD)",
        train_counts=COUNTS_2023,
        train_images=264_849,
        splits=("train", "dev", "test"),
        tables={"train": "train.csv", "dev": "development.csv", "test": "test.csv"},
        samples={"dev": "development_sample_submission.csv", "test": "sample_submission.csv"},
        image_sources={"mimic": ()},
    )


@challenge("demo")
def demo(name: str) -> CxrLt:
    """Return the demo: generated radiographs in the layout of CXR-LT 2023."""
    return replace(
        cxr_lt_2023(name),
        title="Generated chest phantom in the layout of CXR-LT 2023",
        recipes=("demo_resnet", "demo_darknet"),
        n_folds=3,
        image_sources={},
        missing_hint="Create it with: cxrlt demo",
    )


@challenge("demo-single")
def demo_single(name: str) -> CxrLt:
    """Return the single-label demo. Head and tail come from the shares of a class among all positives."""
    return replace(
        demo(name),
        title="Generated chest phantom with one finding per image",
        train_images=sum(COUNTS_2023.values()),
        task="single_label",
        metric=DEFAULT_METRIC["single_label"],
        recipes=("single_resnet", "single_darknet"),
        missing_hint="Create it with: cxrlt demo demo-single",
    )


@challenge("cxrlt2024-task1")
def cxr_lt_2024_task1(name: str) -> CxrLt:
    """Return CXR-LT 2024 task 1: 40 classes, automatic labels in the test set."""
    return _cxr_lt_2024(name, 1, COUNTS_2024)


@challenge("cxrlt2024-task2")
def cxr_lt_2024_task2(name: str) -> CxrLt:
    """Return CXR-LT 2024 task 2: 26 classes, manual labels in the test set."""
    return _cxr_lt_2024(name, 2, {each: COUNTS_2024[each] for each in TASK2_CLASSES})


def _cxr_lt_2024(name: str, task: int, counts: Mapping[str, int]) -> CxrLt:
    """Return a task of CXR-LT 2024. Tasks have the same training images, but other classes and test sets."""
    return CxrLt(
        name=name,
        title=f"CXR-LT 2024 (MICCAI), task {task}",
        train_counts=counts,
        train_images=258_871,
        splits=("train", "dev", "test"),
        tables={"train": "train_labeled.csv", "dev": "development.csv", "test": f"test_task{task}.csv"},
        labeled={"dev": f"development_labeled_task{task}.csv", "test": f"test_labeled_task{task}.csv"},
        samples={
            "dev": f"development_task{task}_sample_submission.csv",
            "test": f"test_task{task}_sample_submission.csv",
        },
        kits=(f"task{task}_*starting_kit",),
        image_sources={"mimic": ()},
    )
