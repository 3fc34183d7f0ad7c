import sys

import openpyxl
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import MissingFileError
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check
from cxrlt.inputs.table import load_table
from layouts import write_csv
from user_errors import raises_user_error

EYES, PATIENTS = get_challenge("odir5k"), get_challenge("odir5k-patient")
ODIR_HEADER = ["ID", "Patient Age", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords", *EYES.classes]
ODIR_ROWS = [
    ["0", "69", "0_left.jpg", "0_right.jpg", "cataract", *"00010000"],
    ["10", "57", "10_left.jpg", "10_right.jpg", "laser spot，moderate retinopathy", *"01000001"],
]
OFFICIAL = "ODIR-5K_Training_Annotations(Updated)_V2"


def write_aptos(inputs, grades, unique=None):
    inputs.mkdir(parents=True, exist_ok=True)
    write_csv(inputs / "train.csv", ["id_code", "diagnosis"], [[k, v] for k, v in grades.items()])
    write_csv(inputs / "test.csv", ["id_code"], [["t1"], ["t0"]])
    if unique:
        rows = [[name, grades.get(name, "0")] for name in unique]
        write_csv(inputs / "trainLabels19_unique.csv", ["id_code", "diagnosis"], rows)
    return get_challenge("aptos2019", inputs)


def write_eyes(inputs, labels):
    """Write full_df.csv: the label of each eye by file name; the columns of all patients say D."""
    rows = [
        [name.split("_")[0], *"01000000", f"../input/{name}", f"['{label}']", name]
        for name, label in labels.items()
    ]
    write_csv(inputs / "full_df.csv", ["ID", *EYES.classes, "filepath", "labels", "filename"], rows)


def named(table, challenge) -> list[str]:
    """Return the class of every row of a one-hot table."""
    assert (table[list(challenge.classes)].sum(axis=1) == 1).all()
    return table[list(challenge.classes)].idxmax(axis=1).tolist()


def test_a_grade_is_the_class_at_its_position_and_test_has_no_labels(tmp_path):
    challenge = write_aptos(tmp_path, {"c": "4", "a": "0", "b": "2"})
    table = challenge.read("train", tmp_path)
    assert table.index.tolist() == ["c", "a", "b"]
    assert named(table, challenge) == ["Proliferative DR", "No DR", "Moderate"]
    assert table["path"].tolist() == ["c.png", "a.png", "b.png"]
    assert table["patient"].isna().all()
    assert challenge.template("test", tmp_path) == ["t1", "t0"]
    assert challenge.read("test", tmp_path)[list(challenge.classes)].isna().all(axis=None)
    assert (challenge.metric, challenge.channels, challenge.id_column) == ("kappa", 3, "id_code")


def test_a_grade_that_does_not_exist_is_refused_with_its_row(tmp_path):
    challenge = write_aptos(tmp_path, {"a": "0", "b": "5"})
    with raises_user_error("train.csv", "'diagnosis'", "row 3 ('5')", "0, 1, 2, 3, 4"):
        challenge.read("train", tmp_path)


def test_a_list_of_different_images_removes_all_other_rows_and_check_counts_them(tmp_path):
    grades = {"a": "0", "b": "1", "c": "1"}
    alone = write_aptos(tmp_path, grades)
    assert alone.group_duplicates and "identical images together" in alone.notes(tmp_path)[0]
    challenge = write_aptos(tmp_path, grades, unique=["c", "a"])
    assert challenge.read("train", tmp_path).index.tolist() == ["a", "c"]
    assert not challenge.group_duplicates
    assert "trainLabels19_unique.csv: 1 of 3 training rows are removed" in challenge.notes(tmp_path)[0]
    write_aptos(tmp_path, grades, unique=["A", "c"])
    with raises_user_error("trainLabels19_unique.csv", "not in train.csv", "A"):
        challenge.read("train", tmp_path)


def test_the_label_of_an_eye_is_read_and_not_that_of_its_patient(tmp_path):
    write_eyes(tmp_path, {"0_right.jpg": "N", "7_left.jpg": "O", "0_left.jpg": "D"})
    table = EYES.read("train", tmp_path)
    assert named(table, EYES) == ["N", "O", "D"]
    assert table["patient"].tolist() == ["0", "7", "0"]
    assert table["study"].is_unique
    eyes, labels = EYES.notes(tmp_path)
    assert "66.7% of the 3 images" in eyes
    assert "for 2 of 3 eyes" in labels
    with raises_user_error("full_df.csv", "'labels'", "row 2 (\"['X']\")"):
        write_eyes(tmp_path, {"0_right.jpg": "X"})
        EYES.read("train", tmp_path)


def test_both_eyes_of_a_patient_are_one_study_with_the_labels_of_the_patient(tmp_path):
    write_csv(tmp_path / f"{OFFICIAL}.csv", ODIR_HEADER, ODIR_ROWS)
    table = PATIENTS.read("train", tmp_path)
    assert table.index.tolist() == ["0_left.jpg", "0_right.jpg", "10_left.jpg", "10_right.jpg"]
    assert table["patient"].tolist() == table["study"].tolist() == ["0", "0", "10", "10"]
    assert table[["C", "D", "O"]].to_numpy().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]]
    write_csv(
        tmp_path / f"{OFFICIAL}.csv",
        ODIR_HEADER,
        [ODIR_ROWS[0], ["3", "1", "0_right.jpg", "b", *"a00000000"]],
    )
    with raises_user_error(f"{OFFICIAL}.csv", "0_right.jpg", "two eyes"):
        PATIENTS.read("train", tmp_path)


@pytest.mark.parametrize("place", ["", "ODIR-5K", "ODIR-5K/ODIR-5K"])
@pytest.mark.parametrize("name", [OFFICIAL, "data"])
def test_the_table_of_patients_has_its_official_name_or_that_of_kaggle(tmp_path, name, place):
    with pytest.raises(MissingFileError, match=r"data\.xlsx"):
        PATIENTS.read("train", tmp_path)
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    write_csv(tmp_path / place / f"{name}.csv", ODIR_HEADER, ODIR_ROWS)
    assert len(PATIENTS.read("train", tmp_path)) == 4


@pytest.mark.parametrize(
    ("challenge", "folder", "image"),
    [
        ("aptos2019", "train_images", "a.png"),
        ("aptos2019", "", "a.png"),
        ("odir5k", "ODIR-5K/Training Images", "0_left.jpg"),
        ("odir5k", "ODIR-5K/ODIR-5K/Training Images", "0_left.jpg"),
        ("odir5k", "preprocessed_images", "0_left.jpg"),
        ("odir5k", "images", "0_left.jpg"),
        ("odir5k", "", "0_left.jpg"),
    ],
)
def test_images_are_found_in_the_folders_of_every_copy(tmp_path, challenge, folder, image):
    workspace = Workspace(tmp_path)
    inputs = workspace.inputs_dir(challenge)
    write_aptos(inputs, {"a": "0"})
    write_eyes(inputs, {"0_left.jpg": "D"})
    (inputs / folder).mkdir(parents=True, exist_ok=True)
    (inputs / folder / image).touch()
    table = load_table(get_challenge(challenge, inputs), "train", workspace)
    assert table["file"].tolist() == [str(inputs / folder / image)]


def test_a_spreadsheet_without_openpyxl_asks_for_it_or_for_a_csv_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    with raises_user_error("data.xlsx", "pip install openpyxl", "data.csv"):
        PATIENTS.read("train", tmp_path)


def test_a_spreadsheet_gives_the_rows_of_the_csv_file_saved_from_it(tmp_path):
    book = openpyxl.Workbook()
    for row in [ODIR_HEADER, [*map(int, ODIR_ROWS[0][:2]), *ODIR_ROWS[0][2:5], *map(int, ODIR_ROWS[0][5:])]]:
        book.active.append(row)
    book.active.append([None] * 20)
    book.save(tmp_path / "data.xlsx")
    spreadsheet = PATIENTS.read("train", tmp_path)
    write_csv(tmp_path / "data.csv", ODIR_HEADER, ODIR_ROWS[:1])
    pd.testing.assert_frame_equal(spreadsheet, PATIENTS.read("train", tmp_path))


@pytest.mark.parametrize("content", [b"", b"ID,N\n", b"PK\x03\x04" + bytes(50)])
def test_a_damaged_spreadsheet_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "data.xlsx").write_bytes(content)
    with raises_user_error("data.xlsx", "cannot be read as a spreadsheet", "download it again"):
        PATIENTS.read("train", tmp_path)


def counts_of(table: pd.DataFrame, challenge: Challenge) -> dict[str, int]:
    return {name: int(table[name].sum()) for name in challenge.classes}


def test_the_official_table_of_aptos_without_its_duplicates_is_split_evenly(single_label_data, tmp_path):
    inputs = single_label_data / "aptos2019"
    challenge, workspace = get_challenge("aptos2019", inputs), Workspace(tmp_path, inputs)
    assert len(challenge.read("test", inputs)) == 1_928
    assert "158 of 3,662 training rows are removed" in challenge.notes(inputs)[0]
    every_row = challenge.read_table("train", inputs)
    assert (challenge.train_images, challenge.train_counts) == (3_662, counts_of(every_row, challenge))
    assert "3,504 rows" in make_folds(challenge, workspace)


def test_the_official_table_of_eyes_keeps_both_eyes_in_one_fold(single_label_data, tmp_path):
    inputs = single_label_data / "odir5k"
    workspace = Workspace(tmp_path, inputs, inputs)
    table = EYES.read("train", inputs)
    assert (EYES.train_images, EYES.train_counts) == (len(table), counts_of(table, EYES))
    report = check(EYES, workspace, allow_missing=True)
    assert "of 94.9% of the 6,392 images the other eye" in report
    assert "for 775 of 6,392 eyes" in report
    assert "No problem found" in report
    assert "(3,358 patients)" in make_folds(EYES, workspace)
    folds = pd.read_csv(workspace.folds_path("odir5k"))
    assert (folds.groupby("patient")["fold"].nunique() == 1).all()
    assert "609 rows (317 patients)" in make_folds(EYES, workspace, allow_missing=True, force=True)


def test_the_official_table_of_patients_gives_the_official_counts(single_label_data, tmp_path):
    inputs = single_label_data / "odir5k"
    workspace = Workspace(tmp_path, inputs, inputs)
    table = PATIENTS.read("train", inputs)
    assert table["patient"].nunique() == 3_500
    assert (PATIENTS.train_images, PATIENTS.train_counts) == (len(table), counts_of(table, PATIENTS))
    assert "609 rows (317 patients)" in make_folds(PATIENTS, workspace, allow_missing=True)
