"""The layouts in which challenges are published: whole small data sets, and training tables alone."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024, TASK2_CLASSES
from cxrlt.challenges.cxr_lt_2026 import CLASSES as CLASSES_2026
from cxrlt.challenges.nih import COUNTS_NIH14, COUNTS_NIHLT
from cxrlt.inputs.images import ImageSource

MIMIC_KEYS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning")
PADCHEST_KEYS = ("ImageID", "StudyDate_DICOM", "PatientID")
TASK3 = ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")
# the second column often tells what a blank in the first leaves open, and sometimes neither does
VIEWS = (("AP", "antero-posterior"), ("LATERAL", "lateral"), ("", "postero-anterior"), ("", ""))
SIDE = 40
SPLITS = {"train": 30, "dev": 8, "test": 8}
PREVALENCE = 0.3
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
class Row:
    """An image: its study's labels, by class, and where it stands among the images of all."""

    number: int
    patient: int
    study: int
    labels: dict[str, int]


def write_layout(root: Path, name: str) -> ImageSource:
    """The inputs of challenge `name` below `root`, as downloaded."""
    workspace = Workspace(root)
    inputs = workspace.inputs_dir(name)
    inputs.mkdir(parents=True)
    if name == "cxrlt2023":
        write_2023(inputs)
    elif name.startswith("cxrlt2024"):
        write_2024(inputs)
    else:
        write_2026(inputs)
    return ImageSource(get_challenge(name, inputs), workspace)


def write_2023(inputs: Path) -> None:
    """Labels in train.csv alone; the test rows of the template stand in another order than the table's."""
    classes = tuple(COUNTS_2023)
    keys = (*MIMIC_KEYS, "path")
    for split, name in (("train", "train.csv"), ("dev", "development.csv"), ("test", "test.csv")):
        images = list(rows(split, classes))
        shown = classes if split == "train" else ()
        write_csv(inputs / name, (*keys, *shown), [mimic_cells(inputs, row, "", shown) for row in images])
    ids = [mimic_id(row) for row in rows("test", classes)]
    write_sample(inputs / "sample_submission.csv", "dicom_id", ids[::-1], classes)


def write_2024(inputs: Path) -> None:
    """Both tasks' files: 45 labels in train, gold labels for most of the images of task 2, starting kits."""
    classes = tuple(COUNTS_2024)
    keys = (*MIMIC_KEYS, "fpath")
    train = sorted((*classes, *TASK3))
    write_csv(
        inputs / "train_labeled.csv",
        (*keys, *train),
        [mimic_cells(inputs, row, "s", train) for row in rows("train", train)],
    )
    for split in ("dev", "test"):
        images = list(rows(split, classes))
        for task, shown in ((1, classes), (2, TASK2_CLASSES)):
            long = "development" if split == "dev" else "test"
            table = "development.csv" if split == "dev" else f"test_task{task}.csv"
            bare = [mimic_cells(inputs, row, "s", ()) for row in images]
            write_csv(inputs / table, keys, bare)
            labelled = [mimic_cells(inputs, row, "s", shown) for row in images[: -2 if task == 2 else None]]
            write_csv(inputs / f"{long}_labeled_task{task}.csv", (*keys, *shown), labelled)
            if split == "dev":
                kit = inputs / f"task{task}_development_starting_kit"
                kit.mkdir()
                (kit / "EVAL_CLASSES.txt").write_text("".join(f"{name}\t \n" for name in shown))
                ids = [mimic_id(row) for row in images]
                write_sample(
                    kit / f"development_task{task}_sample_submission.csv", "dicom_id", ids[::-1], shown
                )


def write_2026(inputs: Path) -> None:
    """16-bit pictures, long and hexadecimal patients, removals, and an evaluation table of blank headers."""
    train, dev = list(rows("train", CLASSES_2026)), list(rows("dev", CLASSES_2026))
    picture_dir = inputs / "images"
    picture_dir.mkdir()
    for row in (*train, *dev):
        picture = draw(row).astype(np.uint16) * 200 + 1000
        cv2.imwrite(str(picture_dir / padchest_cells(row, ())[0]), picture)
    # images of dev patients that train should not have
    cells = [padchest_cells(row, CLASSES_2026) for row in (*train, *dev[:3])]
    write_csv(inputs / "CXRLT_2026_training.csv", (*PADCHEST_KEYS, *CLASSES_2026), cells)
    removed = [[image, date, "1.90E+38"] for image, date, *_ in cells[-3:]]
    write_csv(inputs / "Removal.csv", PADCHEST_KEYS, [*removed, ["0_gone.png", "20150101", "3.01E+38"]])
    blanks = [[*padchest_cells(row, ()), *[""] * len(CLASSES_2026)] for row in dev]
    header = (*PADCHEST_KEYS, *[""] * len(CLASSES_2026))
    write_csv(inputs / "CXRLT_2026_TEST_ALL_TASK1.csv", header, blanks)
    (inputs / "Train_CLASS.txt").write_text("\t\n".join(CLASSES_2026))


def rows(split: str, classes: Sequence[str]) -> Iterator[Row]:
    """Two studies of every other patient, one of the rest; two images of a study, with its labels."""
    first = 1000 * list(SPLITS).index(split)
    number = 10 * first
    for patient in range(first, first + SPLITS[split]):
        for study in range(1 + patient % 2):
            labels = np.random.default_rng((patient, study)).random(len(classes)) < PREVALENCE
            for _ in range(2):
                yield Row(number, patient, study, dict(zip(classes, map(int, labels), strict=True)))
                number += 1


def mimic_id(row: Row) -> str:
    return f"{row.number:08x}-5a6b7c8d-00000000"


def mimic_cells(inputs: Path, row: Row, letter: str, classes: Sequence[str]) -> list[str]:
    """The row's cells; its JPEG is written where they say."""
    patient, study = f"1{row.patient:07d}", f"{50_000_000 + 10 * row.patient + row.study}"
    path = f"files/p{patient[:2]}/p{patient}/s{study}/{mimic_id(row)}.jpg"
    if not (inputs / path).is_file():
        (inputs / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(inputs / path), draw(row))
    # frontal and lateral in turn, now and then without a ViewPosition
    view = VIEWS[row.number % 2 + 2 * (row.number % 7 == 0)]
    labels = [str(row.labels[name]) for name in classes]
    return [mimic_id(row), patient, f"{letter}{study}", *view, path, *labels]


def padchest_cells(row: Row, classes: Sequence[str]) -> list[str]:
    """Every third patient is hexadecimal, and looks like a power of ten."""
    patient = f"{row.patient + 4}e12" if row.patient % 3 == 0 else f"{row.patient:04d}6048869429233163798823"
    date = f"201{row.study}0915"
    labels = [str(row.labels[name]) for name in classes]
    return [f"{row.patient}{row.study}36136348236148679_{row.number:06x}.png", date, patient, *labels]


def draw(row: Row) -> np.ndarray:
    """uint8 (SIDE, SIDE): noise, and a bar for each of the first classes that the row has."""
    picture = np.random.default_rng(row.number).integers(20, 60, (SIDE, SIDE)).astype(np.uint8)
    for place, positive in enumerate(list(row.labels.values())[:8]):
        if positive:
            picture[5 * place : 5 * place + 3] = 200
    return picture


def write_csv(path: Path, header: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    path.write_bytes(as_csv([header, *cells]))


def write_sample(path: Path, id_column: str, ids: Sequence[str], classes: Sequence[str]) -> None:
    write_csv(path, (id_column, *classes), [[image, *["0.5"] * len(classes)] for image in ids])


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


def as_csv(rows: Sequence[Sequence[str]]) -> bytes:
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


MIMIC_IDS = ("dicom_id", "subject_id")
CXRLT2023 = TableLayout(
    "cxrlt2023", "train.csv", *MIMIC_IDS, "path", tuple(COUNTS_2023), (*MIMIC_KEYS, "path")
)
CXRLT2024 = TableLayout(
    "cxrlt2024-task1", "train_labeled.csv", *MIMIC_IDS, "fpath", tuple(COUNTS_2024), (*MIMIC_KEYS, "fpath")
)
CXRLT2026 = TableLayout(
    "cxrlt2026-task1",
    "CXRLT_2026_training.csv",
    "ImageID",
    "PatientID",
    "ImageID",
    CLASSES_2026,
    PADCHEST_KEYS,
)
NIH14 = TableLayout(
    "nih14",
    "Data_Entry_2017_v2020.csv",
    "Image Index",
    "Patient ID",
    "Image Index",
    tuple(COUNTS_NIH14),
    ("Image Index", "Follow-up #", "Patient ID", "Patient Age", "View Position"),
    findings="Finding Labels",
)
NIHLT_FILE = "miccai2023_nih-cxr-lt_labels_train.csv"
NIHLT = TableLayout("nihlt", NIHLT_FILE, "id", "subj_id", "id", tuple(COUNTS_NIHLT), ("id", "subj_id"))
CSV_KEYS = ("image", "patient", "study", "view", "path")
LAYOUTS = {
    layout.challenge: layout
    for layout in (
        CXRLT2023,
        replace(CXRLT2023, challenge="demo"),
        replace(CXRLT2023, challenge="demo-single", one_hot=True),
        CXRLT2024,
        replace(CXRLT2024, challenge="cxrlt2024-task2", classes=TASK2_CLASSES),
        CXRLT2026,
        NIH14,
        NIHLT,
        replace(NIHLT, challenge="nihlt-single", one_hot=True),
        TableLayout("csv", "train.csv", "image", "patient", "path", CSV_CLASSES, CSV_KEYS),
    )
}
