"""The tables of every challenge as published, small and without their pictures, and how to change a cell."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024, TASK2_CLASSES
from cxrlt.challenges.cxr_lt_2026 import CLASSES as CLASSES_2026
from cxrlt.challenges.nih import COUNTS_NIH14, COUNTS_NIHLT
from layouts import MIMIC_KEYS, PADCHEST_KEYS

N_IMAGES = 12
CSV_CLASSES = ("Mass", "Hernia", "No Finding")
CSV_SPEC = """
train: train.csv
test: test.csv
test_template: sample.csv
id: image
patient: patient
study: study
view: view
path: path
classes: [Mass, Hernia, No Finding]
"""


@dataclass(frozen=True)
class TableLayout:
    """What the training table of a challenge is called, and its columns."""

    challenge: str
    file: str
    image: str
    patient: str
    path: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    findings: str | None = None
    """A column of names joined with |, in place of a column per class."""
    one_hot: bool = False

    def rows(self) -> list[list[str]]:
        """The header and N_IMAGES rows: two images per patient, every class in every third row."""
        return [self._header(), *(self._row(number) for number in range(N_IMAGES))]

    def write(self, inputs: Path) -> Path:
        """All that the challenge needs to read train; returns the path of the table."""
        inputs.mkdir(parents=True, exist_ok=True)
        (inputs / self.file).write_bytes(as_csv(self.rows()))
        ids = [row[self._header().index(self.image)] for row in self.rows()[1:]]
        if self.challenge == "nih14":
            (inputs / "train_val_list.txt").write_text("".join(f"{image}\n" for image in ids))
        if self.challenge == "cxrlt2026-task1":
            (inputs / "Removal.csv").write_text(f"{','.join(PADCHEST_KEYS)}\ngone.png,20150101,1.90E+38\n")
        if self.challenge == "csv":
            (inputs / "challenge.yaml").write_text(CSV_SPEC)
            (inputs / "test.csv").write_text("image,path\nz,z.png\n")
            (inputs / "sample.csv").write_text(f"image,{','.join(self.classes)}\nz,.5,.5,.5\n")
        return inputs / self.file

    def _header(self) -> list[str]:
        return [*self.keys, *((self.findings,) if self.findings else self.classes)]

    def _row(self, number: int) -> list[str]:
        cells = {key: f"{key[0].lower()}{number}" for key in self.keys}
        image = f"{number:08x}_{number:03d}.png"
        cells |= {self.path: f"files/{image}"} | {self.image: image, self.patient: f"1{number // 2:07d}"}
        positive = [(number + place) % 3 == 0 for place in range(len(self.classes))]
        if self.one_hot:
            positive = [number % len(self.classes) == place for place in range(len(self.classes))]
        if self.findings:
            names = [name for name, yes in zip(self.classes, positive, strict=True) if yes]
            return [*(cells[key] for key in self.keys), "|".join(names) or "No Finding"]
        return [*(cells[key] for key in self.keys), *(str(int(yes)) for yes in positive)]


def as_csv(rows: list[list[str]]) -> bytes:
    """As spreadsheets write it, quotes only where they are needed."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().replace("\r\n", "\n").encode()


def with_cell(column: str, text: str, row: int = 1) -> Callable[[list[list[str]]], list[list[str]]]:
    """A change of one cell, by column name; row 0 is the header."""

    def change(rows: list[list[str]]) -> list[list[str]]:
        place = rows[0].index(column)
        return [
            [text if (number, cell) == (row, place) else old for cell, old in enumerate(cells)]
            for number, cells in enumerate(rows)
        ]

    return change


MIMIC = (*MIMIC_KEYS, "path")
LAYOUTS = {
    layout.challenge: layout
    for layout in (
        TableLayout("cxrlt2023", "train.csv", "dicom_id", "subject_id", "path", tuple(COUNTS_2023), MIMIC),
        TableLayout("demo", "train.csv", "dicom_id", "subject_id", "path", tuple(COUNTS_2023), MIMIC),
        TableLayout(
            "demo-single",
            "train.csv",
            "dicom_id",
            "subject_id",
            "path",
            tuple(COUNTS_2023),
            MIMIC,
            one_hot=True,
        ),
        *(
            TableLayout(
                f"cxrlt2024-task{task}",
                "train_labeled.csv",
                "dicom_id",
                "subject_id",
                "fpath",
                classes,
                (*MIMIC_KEYS, "fpath"),
            )
            for task, classes in ((1, tuple(COUNTS_2024)), (2, TASK2_CLASSES))
        ),
        TableLayout(
            "cxrlt2026-task1",
            "CXRLT_2026_training.csv",
            "ImageID",
            "PatientID",
            "ImageID",
            CLASSES_2026,
            PADCHEST_KEYS,
        ),
        TableLayout(
            "nih14",
            "Data_Entry_2017_v2020.csv",
            "Image Index",
            "Patient ID",
            "Image Index",
            tuple(COUNTS_NIH14),
            ("Image Index", "Follow-up #", "Patient ID", "Patient Age", "View Position"),
            findings="Finding Labels",
        ),
        *(
            TableLayout(
                name,
                "miccai2023_nih-cxr-lt_labels_train.csv",
                "id",
                "subj_id",
                "id",
                tuple(COUNTS_NIHLT),
                ("id", "subj_id"),
                one_hot=name == "nihlt-single",
            )
            for name in ("nihlt", "nihlt-single")
        ),
        TableLayout(
            "csv",
            "train.csv",
            "image",
            "patient",
            "path",
            CSV_CLASSES,
            ("image", "patient", "study", "view", "path"),
        ),
    )
}
