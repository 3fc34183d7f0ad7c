"""File layouts of published challenges: small complete data sets, and training tables only."""

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024, TASK2_CLASSES
from cxrlt.challenges.cxr_lt_2026 import CLASSES as CLASSES_2026
from cxrlt.challenges.dermoscopy import COUNTS_2018, COUNTS_2019, COUNTS_HAM10000
from cxrlt.challenges.fundus import COUNTS_ODIR_EYES, COUNTS_ODIR_PATIENTS
from cxrlt.challenges.nih import COUNTS_NIH14, COUNTS_NIHLT
from cxrlt.inputs.images import ImageSource

MIMIC_KEYS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning")
PADCHEST_KEYS = ("ImageID", "StudyDate_DICOM", "PatientID")
TASK3 = ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")
# if the first column is blank, the second often has the view; sometimes both are blank
VIEWS = (("AP", "antero-posterior"), ("LATERAL", "lateral"), ("", "postero-anterior"), ("", ""))
SIDE = 40
SPLITS = {"train": 30, "dev": 8, "test": 8}
PREVALENCE = 0.3
PARTS_2019 = ("Training", "Test")
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
    """An image: its number in the challenge, and the labels of its study by class."""

    number: int
    patient: int
    study: int
    labels: dict[str, int]


def write_layout(root: Path, name: str) -> ImageSource:
    """Write the inputs of challenge `name` below `root`, as downloaded."""
    workspace = Workspace(root)
    inputs = workspace.inputs_dir(name)
    inputs.mkdir(parents=True)
    if name == "cxrlt2023":
        write_2023(inputs)
    elif name.startswith("cxrlt2024"):
        write_2024(inputs)
    elif name == "cxrlt2026-task1":
        write_2026(inputs)
    elif name == "ham10000":
        write_ham10000(inputs)
    elif name == "isic2018":
        write_isic2018(inputs)
    elif name == "isic2019":
        write_isic2019(inputs)
    elif name == "aptos2019":
        write_aptos(inputs)
    elif name == "odir5k":
        write_odir_eyes(inputs)
    elif name == "odir5k-patient":
        write_odir_patients(inputs)
    elif name == "covid-radiography":
        write_covid(inputs)
    else:
        raise ValueError(name)
    return ImageSource(get_challenge(name, inputs), workspace)


def write_2023(inputs: Path) -> None:
    """Write labels only in train.csv; the template has another row order than the test table."""
    classes = tuple(COUNTS_2023)
    keys = (*MIMIC_KEYS, "path")
    for split, name in (("train", "train.csv"), ("dev", "development.csv"), ("test", "test.csv")):
        images = list(rows(split, classes))
        shown = classes if split == "train" else ()
        write_csv(inputs / name, (*keys, *shown), [mimic_cells(inputs, row, "", shown) for row in images])
    ids = [mimic_id(row) for row in rows("test", classes)]
    write_sample(inputs / "sample_submission.csv", "dicom_id", ids[::-1], classes)


def write_2024(inputs: Path) -> None:
    """Write the files of both tasks: 45 train labels, gold labels for most task 2 images, starting kits."""
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
            unlabelled = [mimic_cells(inputs, row, "s", ()) for row in images]
            write_csv(inputs / table, keys, unlabelled)
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
    """Write 16-bit images, long and hexadecimal patients, removals, and a table with blank headers."""
    train, dev = list(rows("train", CLASSES_2026)), list(rows("dev", CLASSES_2026))
    images_dir = inputs / "images"
    images_dir.mkdir()
    for row in (*train, *dev):
        image = draw_image(row).astype(np.uint16) * 200 + 1000
        cv2.imwrite(str(images_dir / padchest_cells(row, ())[0]), image)
    # the training table wrongly includes images of dev patients
    cells = [padchest_cells(row, CLASSES_2026) for row in (*train, *dev[:3])]
    write_csv(inputs / "CXRLT_2026_training.csv", (*PADCHEST_KEYS, *CLASSES_2026), cells)
    removed = [[image, date, "1.90E+38"] for image, date, *_ in cells[-3:]]
    write_csv(inputs / "Removal.csv", PADCHEST_KEYS, [*removed, ["0_gone.png", "20150101", "3.01E+38"]])
    blanks = [[*padchest_cells(row, ()), *[""] * len(CLASSES_2026)] for row in dev]
    header = (*PADCHEST_KEYS, *[""] * len(CLASSES_2026))
    write_csv(inputs / "CXRLT_2026_TEST_ALL_TASK1.csv", header, blanks)
    (inputs / "Train_CLASS.txt").write_text("\t\n".join(CLASSES_2026))


def write_ham10000(inputs: Path) -> None:
    """Write the table as on Dataverse, and the images in two folders; every lesion has two images."""
    header, classes = ("lesion_id", "image_id", "dx", "age"), list(COUNTS_HAM10000)
    cells = [[f"HAM_{k // 2}", f"ISIC_{k}", classes[k // 2 % len(classes)], "80.0"] for k in range(56)]
    text = "\n".join("\t".join(row) for row in (header, *cells))
    (inputs / "HAM10000_metadata").write_text(f"{text}\n")
    for number, (_, image, name, _) in enumerate(cells):
        folder = inputs / f"HAM10000_images_part_{1 + number % 2}"
        write_colour(folder / f"{image}.jpg", number, classes.index(name) % 4)


def write_isic2018(inputs: Path) -> None:
    """Write the three label files; that of the test set has the weights of the scorer."""
    for first, part, size in ((0, "Training", 56), (100, "Validation", 7), (200, "Test", 14)):
        weights = {"score_weight": "0.5"} if part == "Test" else {}
        cells = _one_hot_cells(inputs / f"ISIC2018_Task3_{part}_Input", first, size, tuple(COUNTS_2018))
        path = inputs / f"ISIC2018_Task3_{part}_GroundTruth.csv"
        write_csv(path, ("image", *COUNTS_2018, *weights), [[*row, *weights.values()] for row in cells])
    lesions = [[f"ISIC_{number}", f"HAM_{number // 2}", "histo"] for number in range(56)]
    header = ("image", "lesion_id", "diagnosis_confirm_type")
    write_csv(inputs / "ISIC2018_Task3_Training_LesionGroupings.csv", header, lesions)


def write_isic2019(inputs: Path) -> None:
    """Write images into folders inside folders of the same name; the test set has images of class UNK."""
    classes = (*COUNTS_2019, "UNK")
    train, test = (inputs / f"ISIC_2019_{part}_Input" / f"ISIC_2019_{part}_Input" for part in PARTS_2019)
    cells = [[*row, "0.0"] for row in _one_hot_cells(train, 0, 64, tuple(COUNTS_2019))]
    write_csv(inputs / "ISIC_2019_Training_GroundTruth.csv", ("image", *classes), cells)
    lesions = [[row[0], "HAM_1" if number < 3 else "", "male"] for number, row in enumerate(cells)]
    write_csv(inputs / "ISIC_2019_Training_Metadata.csv", ("image", "lesion_id", "gender"), lesions)
    cells = _one_hot_cells(test, 200, 18, classes)
    write_csv(inputs / "ISIC_2019_Test_GroundTruth.csv", ("image", *classes), cells)
    write_csv(inputs / "ISIC_2019_Test_Metadata.csv", ("image", "sex"), [[row[0], "male"] for row in cells])


def _one_hot_cells(folder: Path, first: int, size: int, classes: Sequence[str]) -> list[list[str]]:
    """Write `size` JPEG images, two per class in turn. Return their ids and one-hot labels as published."""
    cells = []
    for number in range(first, first + size):
        place = number // 2 % len(classes)
        write_colour(folder / f"ISIC_{number}.jpg", number, place % 4)
        cells.append([f"ISIC_{number}", *(str(float(k == place)) for k in range(len(classes)))])
    return cells


def write_aptos(inputs: Path) -> None:
    """Write colour images by grade; three identical training images have different grades."""
    train = [(f"a{number:02}", str(number % 5)) for number in range(20)]
    write_csv(inputs / "train.csv", ("id_code", "diagnosis"), [*train, ("twin1", "1"), ("twin2", "2")])
    write_csv(inputs / "test.csv", ("id_code",), [(f"t{number}",) for number in range(4)])
    write_csv(inputs / "sample_submission.csv", ("id_code", "diagnosis"), [("t0", "0")])
    for number, (name, grade) in enumerate(train):
        write_colour(inputs / "train_images" / f"{name}.png", number, int(grade))
    for number in range(4):
        write_colour(inputs / "test_images" / f"t{number}.png", 100 + number, number)
    for name in ("twin1", "twin2"):
        shutil.copyfile(inputs / "train_images" / "a00.png", inputs / "train_images" / f"{name}.png")


def write_odir_eyes(inputs: Path) -> None:
    """Write Kaggle's table of eyes; the columns of the patient say nothing about the eye."""
    classes, cells = tuple(COUNTS_ODIR_EYES), []
    for number in range(24):
        name = f"{number // 2}_{'left' if number % 2 else 'right'}.jpg"
        label = classes[number // 2 % 3]
        cells.append([str(number // 2), *"01000000", f"../input/{name}", f"['{label}']", name])
        write_colour(inputs / "preprocessed_images" / name, number, number // 2 % 3)
    write_csv(inputs / "full_df.csv", ("ID", *classes, "filepath", "labels", "filename"), cells)


def write_odir_patients(inputs: Path) -> None:
    """Write the table of patients as CSV; every patient has two eyes."""
    classes = tuple(COUNTS_ODIR_PATIENTS)
    cells = []
    for number in range(12):
        labels = ["01"[(number + place) % 3 == 0] for place in range(len(classes))]
        cells.append([str(number), f"{number}_left.jpg", f"{number}_right.jpg", *labels])
        for eye, name in enumerate(cells[-1][1:3]):
            write_colour(inputs / "ODIR-5K" / "Training Images" / name, 2 * number + eye, number % 3)
    write_csv(inputs / "ODIR-5K" / "data.csv", ("ID", "Left-Fundus", "Right-Fundus", *classes), cells)


def write_covid(inputs: Path) -> None:
    """Write images and masks of three classes: there is no image of Lung_Opacity."""
    for place, name in enumerate(("COVID", "Normal", "Viral Pneumonia")):
        for folder in ("images", "masks"):
            (inputs / "COVID-19_Radiography_Dataset" / name / folder).mkdir(parents=True)
        for number in range(1, 9):
            image = draw_image(Row(100 * place + number, 0, 0, {str(key): key == place for key in range(3)}))
            for folder in ("images", "masks"):
                path = inputs / "COVID-19_Radiography_Dataset" / name / folder / f"{name}-{number}.png"
                cv2.imwrite(str(path), image)


def write_colour(path: Path, seed: int, strength: int) -> None:
    """Write an image (SIDE, SIDE, 3) of noise with a square whose red grows with `strength`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(20, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    image[10:30, 10:30, 2] = 60 + 40 * strength
    cv2.imwrite(str(path), image)


def rows(split: str, classes: Sequence[str]) -> Iterator[Row]:
    """Yield one or two studies per patient in turn, with two images and one set of labels per study."""
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
    """Return the row's cells and write its JPEG to the path in them."""
    patient, study = f"1{row.patient:07d}", f"{50_000_000 + 10 * row.patient + row.study}"
    path = f"files/p{patient[:2]}/p{patient}/s{study}/{mimic_id(row)}.jpg"
    if not (inputs / path).is_file():
        (inputs / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(inputs / path), draw_image(row))
    # frontal and lateral in turn, sometimes without a ViewPosition
    view = VIEWS[row.number % 2 + 2 * (row.number % 7 == 0)]
    labels = [str(row.labels[name]) for name in classes]
    return [mimic_id(row), patient, f"{letter}{study}", *view, path, *labels]


def padchest_cells(row: Row, classes: Sequence[str]) -> list[str]:
    """Return the row's cells; every third patient id is hexadecimal and looks like a power of ten."""
    patient = f"{row.patient + 4}e12" if row.patient % 3 == 0 else f"{row.patient:04d}6048869429233163798823"
    date = f"201{row.study}0915"
    labels = [str(row.labels[name]) for name in classes]
    return [f"{row.patient}{row.study}36136348236148679_{row.number:06x}.png", date, patient, *labels]


def draw_image(row: Row) -> np.ndarray:
    """Return a uint8 image (SIDE, SIDE): noise, and a bar for each positive of the first eight classes."""
    image = np.random.default_rng(row.number).integers(20, 60, (SIDE, SIDE)).astype(np.uint8)
    for index, positive in enumerate(list(row.labels.values())[:8]):
        if positive:
            image[5 * index : 5 * index + 3] = 200
    return image


def write_csv(path: Path, header: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    path.write_bytes(csv_bytes([header, *cells]))


def write_sample(path: Path, id_column: str, ids: Sequence[str], classes: Sequence[str]) -> None:
    write_csv(path, (id_column, *classes), [[image, *["0.5"] * len(classes)] for image in ids])


@dataclass(frozen=True)
class TableLayout:
    """File name and columns of a challenge's training table."""

    challenge: str
    file: str
    image: str
    patient: str | None
    """None: the table has no patients, or another file has them."""
    path: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    findings: str | None = None
    """A column of class names joined with |, or of one name with `one_hot`, instead of one per class."""
    one_hot: bool = False
    suffix: str = ""
    """What paths have in addition to the column `path`."""

    def rows(self) -> list[list[str]]:
        """Return the header and N_IMAGES rows: two images per patient, every class in every third row."""
        return [self._header(), *(self._row(number) for number in range(N_IMAGES))]

    def write(self, inputs: Path) -> Path:
        """Write all files that reading train needs. Return the path of the table."""
        inputs.mkdir(parents=True, exist_ok=True)
        (inputs / self.file).write_bytes(csv_bytes(self.rows()))
        ids = [row[self._header().index(self.image)] for row in self.rows()[1:]]
        if self.challenge == "nih14":
            (inputs / "train_val_list.txt").write_text("".join(f"{image}\n" for image in ids))
        if self.challenge == "cxrlt2026-task1":
            (inputs / "Removal.csv").write_text(f"{','.join(PADCHEST_KEYS)}\ngone.png,20150101,1.90E+38\n")
        if self.challenge == "isic2018":
            cells = [[image, f"HAM_{number // 2}", "histo"] for number, image in enumerate(ids)]
            header = ("image", "lesion_id", "diagnosis_confirm_type")
            write_csv(inputs / "ISIC2018_Task3_Training_LesionGroupings.csv", header, cells)
        if self.challenge == "isic2019":
            cells = [[image, f"HAM_{number}" if number % 3 else ""] for number, image in enumerate(ids)]
            write_csv(inputs / "ISIC_2019_Training_Metadata.csv", ("image", "lesion_id"), cells)
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
        cells |= {self.path: f"files/{image}"} | {self.image: image}
        if self.patient:
            cells[self.patient] = f"1{number // 2:07d}"
        positive = [(number + place) % 3 == 0 for place in range(len(self.classes))]
        if self.one_hot:
            positive = [number % len(self.classes) == place for place in range(len(self.classes))]
        if self.findings:
            names = [name for name, yes in zip(self.classes, positive, strict=True) if yes]
            return [*(cells[key] for key in self.keys), "|".join(names) or "No Finding"]
        return [*(cells[key] for key in self.keys), *(str(int(yes)) for yes in positive)]


def csv_bytes(rows: Sequence[Sequence[str]]) -> bytes:
    """Return the rows as CSV with minimal quotes, as a spreadsheet writes it."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().replace("\r\n", "\n").encode()


def replace_cell(column: str, text: str, row: int = 1) -> Callable[[list[list[str]]], list[list[str]]]:
    """Return a function that changes one cell of a table; row 0 is the header."""

    def change(rows: list[list[str]]) -> list[list[str]]:
        position = rows[0].index(column)
        return [
            [text if (number, cell) == (row, position) else old for cell, old in enumerate(cells)]
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
HAM10000 = TableLayout(
    "ham10000",
    "HAM10000_metadata.csv",
    "image_id",
    "lesion_id",
    "image_id",
    tuple(COUNTS_HAM10000),
    ("lesion_id", "image_id", "dx_type", "age", "sex", "localization"),
    findings="dx",
    one_hot=True,
    suffix=".jpg",
)
ISIC2018 = TableLayout(
    "isic2018",
    "ISIC2018_Task3_Training_GroundTruth.csv",
    "image",
    None,
    "image",
    tuple(COUNTS_2018),
    ("image",),
    one_hot=True,
    suffix=".jpg",
)
ISIC2019_FILE = "ISIC_2019_Training_GroundTruth.csv"
ISIC2019 = replace(ISIC2018, challenge="isic2019", file=ISIC2019_FILE, classes=tuple(COUNTS_2019))
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
        HAM10000,
        ISIC2018,
        ISIC2019,
        TableLayout("csv", "train.csv", "image", "patient", "path", CSV_CLASSES, CSV_KEYS),
    )
}
