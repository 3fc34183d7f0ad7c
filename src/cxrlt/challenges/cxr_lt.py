"""CXR-LT 2023 and 2024 on MIMIC-CXR-JPG, and the demos in the same layout."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from cxrlt.challenges import columns
from cxrlt.challenges.base import USUAL_METRIC, Challenge
from cxrlt.challenges.csv_file import SOURCE, read_classes, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.views import views
from cxrlt.errors import UserError, listing
from cxrlt.spelling import other_spellings

CLASS_FILE = "EVAL_CLASSES.txt"
PATH_COLUMNS = ("path", "fpath")
# a blank ViewPosition, one image in 24, is often told by the second
VIEW_COLUMNS = ("ViewPosition", "ViewCodeSequence_CodeMeaning")

# positives among the 264,849 training images of 2023, in the order of the template
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
# positives among the 258,871 training images of 2024, in the order of task 1's template
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
# task 2 keeps the slots of 2023, where No Finding had another name: Normal stands before Nodule
TASK2_CLASSES = tuple("Normal" if name == "No Finding" else name for name in COUNTS_2023)


@dataclass(frozen=True, kw_only=True)
class CxrLt(Challenge):
    """`tables`, and where labels come in a file of their own `labeled`, by split; `samples`: the templates.

    A published labelled table also stands in for a split's own table when only that was downloaded. `kits`
    are glob patterns of folders looked into first, the servers' starting kits: those of two tasks hold files
    of the same name. `source` tells what to do if a table is not there.
    """

    tables: Mapping[str, str]
    samples: Mapping[str, str]
    labeled: Mapping[str, str] = field(default_factory=dict)
    kits: tuple[str, ...] = ()
    source: str = SOURCE

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
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
        file = read_csv(path, self.source)
        projections = [file.optional_column(name) for name in VIEW_COLUMNS]
        return columns.contract_table(
            file,
            image_id=columns.ids(file, file.column(self.id_column)),
            patient=columns.ids(file, file.column("subject_id")),
            study=columns.ids(file, file.column("study_id")),
            view=views(*(file.text(name) for name in projections if name)),
            path=columns.paths(file, file.column(*PATH_COLUMNS)),
            class_labels=columns.labels(file, self.classes, labels_required, self.task),
        )

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """The ids of the sample submission; without that file those of the split's table, in its order.

        Raises UserError for a starting kit of other classes, or of the same in another order.
        """
        self.require(split)
        self._check_kits(inputs_dir)
        if split in self.samples and os.path.lexists(path := self._find(inputs_dir, self.samples[split])):
            return columns.template_ids(self, path)
        return self.read(split, inputs_dir).index.tolist()

    def _find(self, inputs_dir: Path, name: str) -> Path:
        """Where the file is, in a starting kit or beside them; where it should be if it is nowhere."""
        found = (folder / name for folder in self._kit_folders(inputs_dir) if os.path.lexists(folder / name))
        return next(found, inputs_dir / name)

    def _kit_folders(self, inputs_dir: Path) -> list[Path]:
        return [folder for kit in self.kits for folder in sorted(inputs_dir.glob(kit))]

    def _check_kits(self, inputs_dir: Path) -> None:
        for folder in self._kit_folders(inputs_dir):
            path = folder / CLASS_FILE
            if os.path.lexists(path) and (found := read_classes(path, self.classes)) != self.classes:
                place = next(k for k, name in enumerate(self.classes) if found[k] != name)
                raise UserError(
                    f"{path} has the classes of {self.name} in another order: line {place + 1} is "
                    f"{found[place]!r}, but should be {self.classes[place]!r}. Take the kit's own file."
                )


@challenge("cxrlt2023")
def cxr_lt_2023(name: str) -> CxrLt:
    return CxrLt(
        name=name,
        title="CXR-LT 2023 (ICCV CVAMD)",
        train_counts=COUNTS_2023,
        train_images=264_849,
        splits=("train", "dev", "test"),
        tables={"train": "train.csv", "dev": "development.csv", "test": "test.csv"},
        samples={"dev": "development_sample_submission.csv", "test": "sample_submission.csv"},
    )


@challenge("demo")
def demo(name: str) -> CxrLt:
    return replace(
        cxr_lt_2023(name),
        title="Generated chest phantom in the layout of CXR-LT 2023",
        recipes=("demo_resnet", "demo_darknet"),
        n_folds=3,
        source="Make it with: cxrlt demo",
    )


@challenge("demo-single")
def demo_single(name: str) -> CxrLt:
    """Its classes have the official shares of all positives, as if each were a picture of its own."""
    return replace(
        demo(name),
        title="Generated chest phantom with one finding per picture",
        train_images=sum(COUNTS_2023.values()),
        task="single_label",
        metric=USUAL_METRIC["single_label"],
        recipes=("single_resnet", "single_darknet"),
        source="Make it with: cxrlt demo demo-single",
    )


@challenge("cxrlt2024-task1")
def cxr_lt_2024_task1(name: str) -> CxrLt:
    return _cxr_lt_2024(name, 1, COUNTS_2024)


@challenge("cxrlt2024-task2")
def cxr_lt_2024_task2(name: str) -> CxrLt:
    return _cxr_lt_2024(name, 2, {each: COUNTS_2024[each] for each in TASK2_CLASSES})


def _cxr_lt_2024(name: str, task: int, counts: Mapping[str, int]) -> CxrLt:
    """A task of CXR-LT 2024: they share the training images and differ in classes and evaluation."""
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
    )
