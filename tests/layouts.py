"""Small data sets in the layouts in which challenges are published, whole and with all their quirks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024, TASK2_CLASSES
from cxrlt.challenges.cxr_lt_2026 import CLASSES
from cxrlt.inputs.images import ImageSource

MIMIC_KEYS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning")
PADCHEST_KEYS = ("ImageID", "StudyDate_DICOM", "PatientID")
TASK3 = ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")
# the second column often tells what a blank in the first leaves open, and sometimes neither does
VIEWS = (("AP", "antero-posterior"), ("LATERAL", "lateral"), ("", "postero-anterior"), ("", ""))
SIDE = 40
SPLITS = {"train": 30, "dev": 8, "test": 8}
PREVALENCE = 0.3


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
    train, dev = list(rows("train", CLASSES)), list(rows("dev", CLASSES))
    picture_dir = inputs / "images"
    picture_dir.mkdir()
    for row in (*train, *dev):
        picture = draw(row).astype(np.uint16) * 200 + 1000
        cv2.imwrite(str(picture_dir / padchest_cells(row, ())[0]), picture)
    # images of dev patients that train should not have
    cells = [padchest_cells(row, CLASSES) for row in (*train, *dev[:3])]
    write_csv(inputs / "CXRLT_2026_training.csv", (*PADCHEST_KEYS, *CLASSES), cells)
    removed = [[image, date, "1.90E+38"] for image, date, *_ in cells[-3:]]
    write_csv(inputs / "Removal.csv", PADCHEST_KEYS, [*removed, ["0_gone.png", "20150101", "3.01E+38"]])
    blanks = [[*padchest_cells(row, ()), *[""] * len(CLASSES)] for row in dev]
    header = (*PADCHEST_KEYS, *[""] * len(CLASSES))
    write_csv(inputs / "CXRLT_2026_TEST_ALL_TASK1.csv", header, blanks)
    (inputs / "Train_CLASS.txt").write_text("\t\n".join(CLASSES))


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
    path.write_text("".join(",".join(line) + "\n" for line in (header, *cells)))


def write_sample(path: Path, id_column: str, ids: Sequence[str], classes: Sequence[str]) -> None:
    write_csv(path, (id_column, *classes), [[image, *["0.5"] * len(classes)] for image in ids])
