from pathlib import Path

import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt_2026 import CLASSES, DEV_FILE, PADCHEST_FILE, TRAIN_FILES
from cxrlt.errors import MissingFileError, UserError
from cxrlt.inputs.check import check
from user_errors import raises_user_error

NAME = "cxrlt2026-task1"
KEYS = ("ImageID", "StudyDate_DICOM", "PatientID")
# patients of PadChest: decimal numbers of 36 digits and more, and hexadecimal ones that look like powers
LONG, HEX = "839860488694292331637988235681460987", "4e12"
ROWS = [
    ("1_a.png", "20140915", LONG),
    ("1_b.png", "20140915", LONG),
    ("2_c.png", "20150101", LONG),
    ("3_d.png", "20150101", HEX),
]


def write_table(path: Path, rows, positives=(), header=CLASSES, blank=False) -> None:
    """A table as published; row k is positive for the class positives[k]."""
    lines = [[*KEYS, *([""] * len(header) if blank else header)]]
    for k, row in enumerate(rows):
        positive = positives[k] if k < len(positives) else None
        lines.append([*row, *("" if blank else str(int(name == positive)) for name in header)])
    path.write_text("".join(",".join(line) + "\n" for line in lines))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The whole training table of four images, one of them to be removed, and two images of dev."""
    write_table(tmp_path / TRAIN_FILES[0], ROWS, ["Normal", "Normal", "pneumoperitoneo", "Mass"])
    (tmp_path / "Removal.csv").write_text(
        ",".join(KEYS) + "\n2_c.png,20150101,8.40E+35\n9_z.png,20150101,1.90E+38\n"
    )
    write_table(
        tmp_path / DEV_FILE, [("9_z.png", "20160101", "77"), ("8_y.png", "20160101", "78")], blank=True
    )
    (tmp_path / "Train_CLASS.txt").write_text("\t\n".join(CLASSES))
    return tmp_path


def test_the_classes_are_the_thirty_of_the_class_file_whose_lines_end_in_tabs(inputs):
    challenge = get_challenge(NAME, inputs)
    assert challenge.classes == CLASSES
    assert len(CLASSES) == 30
    assert challenge.no_finding == "Normal"
    assert challenge.submission_columns == ("ImageID", *CLASSES)
    (inputs / "Train_CLASS.txt").unlink()
    assert get_challenge(NAME, inputs).classes == CLASSES


def test_another_order_of_the_class_file_is_that_of_the_submission_and_other_classes_are_refused(inputs):
    (inputs / "Train_CLASS.txt").write_text("\t\n".join(CLASSES[::-1]))
    assert get_challenge(NAME, inputs).classes == CLASSES[::-1]
    (inputs / "Train_CLASS.txt").write_text("\n".join(["goiter", *CLASSES]))
    with pytest.raises(UserError, match=r"Train_CLASS\.txt has unknown classes: goiter"):
        get_challenge(NAME, inputs)
    (inputs / "Train_CLASS.txt").write_text("\n".join(CLASSES[1:]))
    with pytest.raises(UserError, match=r"Train_CLASS\.txt lacks the class Normal\."):
        get_challenge(NAME, inputs)


def test_counts_and_groups_are_those_of_the_whole_training_table(inputs):
    challenge = get_challenge(NAME, inputs)
    assert challenge.train_images == 4
    assert {name: n for name, n in challenge.train_counts.items() if n} == {
        "Normal": 2,
        "pneumoperitoneo": 1,
        "Mass": 1,
    }
    assert challenge.groups["head"] == ["Normal", "Mass", "pneumoperitoneo"]
    assert len(challenge.groups["tail"]) == 27


def test_removed_images_are_not_in_train_and_both_numbers_are_reported(inputs):
    challenge = get_challenge(NAME, inputs)
    assert challenge.read("train", inputs).index.tolist() == ["1_a.png", "1_b.png", "3_d.png"]
    assert challenge.notes(inputs) == [
        "train is CXRLT_2026_training.csv",
        "Removal.csv has 2 images: 1 of 4 training rows are removed, 1 are not in train",
    ]


def test_the_report_says_what_was_removed(inputs):
    for name in ("1_a", "1_b", "3_d", "9_z", "8_y"):
        (inputs / f"{name}.png").touch()
    report = check(get_challenge(NAME, inputs), Workspace(inputs, inputs=inputs))
    assert "Removal.csv has 2 images: 1 of 4 training rows are removed" in report
    assert "No patient of train is in dev." in report


def test_the_whole_training_table_wins_over_the_filtered_one_and_needs_the_removals(inputs):
    write_table(inputs / TRAIN_FILES[1], ROWS[:1], ["Normal"])
    assert get_challenge(NAME, inputs).train_images == 4
    (inputs / "Removal.csv").unlink()
    with pytest.raises(MissingFileError, match=r"Removal\.csv does not exist: without it CXRLT_2026_tr"):
        get_challenge(NAME, inputs)
    (inputs / TRAIN_FILES[0]).unlink()
    challenge = get_challenge(NAME, inputs)
    assert challenge.read("train", inputs).index.tolist() == ["1_a.png"]
    assert challenge.notes(inputs)[0] == "train is CXRLT_2026_training_filtered.csv"
    assert "does not exist" in challenge.notes(inputs)[1]
    (inputs / TRAIN_FILES[1]).unlink()
    with pytest.raises(MissingFileError, match=r"does not contain CXRLT_2026_training\.csv or"):
        get_challenge(NAME, inputs)


def test_a_study_is_a_patient_on_one_day_and_long_and_hexadecimal_patients_stay_apart(inputs):
    (inputs / "Removal.csv").write_text(",".join(KEYS) + "\n9_z.png,,\n")
    table = get_challenge(NAME, inputs).read("train", inputs)
    assert table["patient"].tolist() == [LONG, LONG, LONG, HEX]
    assert table["study"].tolist() == [f"{LONG}/20140915"] * 2 + [f"{LONG}/20150101", f"{HEX}/20150101"]
    assert set(table["view"]) == {"unknown"}
    assert table["path"].tolist() == table.index.tolist()


def test_a_date_as_a_float_is_the_same_date_and_an_undated_image_is_its_own_study(inputs):
    text = (inputs / TRAIN_FILES[0]).read_text()
    text = text.replace("1_b.png,20140915,", "1_b.png,20140915.0,").replace("3_d.png,20150101,", "3_d.png,,")
    (inputs / TRAIN_FILES[0]).write_text(text)
    table = get_challenge(NAME, inputs).read("train", inputs)
    assert table["study"].tolist() == [f"{LONG}/20140915", f"{LONG}/20140915", "3_d.png"]


@pytest.mark.parametrize("spelling", ["1.90E+38", "3.24e+38", "8E+36", "12.0"])
@pytest.mark.parametrize("name", [TRAIN_FILES[0], DEV_FILE])
def test_patients_merged_by_a_spreadsheet_are_refused_with_rows_and_two_fixes(inputs, name, spelling):
    lines = (inputs / name).read_text().splitlines()
    for k, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        lines[k] = ",".join([*cells[:2], spelling, *cells[3:]])
    lines += [line.replace(".png", f"_{k}.png") for k in range(10) for line in lines[1:2]]
    (inputs / name).write_text("\n".join(lines) + "\n")
    challenge = get_challenge(NAME, inputs)
    with pytest.raises(UserError) as caught:
        challenge.read("train" if name == TRAIN_FILES[0] else "dev", inputs)
    sentence = str(caught.value)
    assert f"{name}, column 'PatientID': a spreadsheet has turned ids into numbers in row 2" in sentence
    assert f"({spelling!r}), row 3 ({spelling!r})" in sentence
    assert f"({len(lines) - 1} in all)" in sentence
    assert "import the column as text" in sentence
    assert PADCHEST_FILE in sentence


def padchest_table(inputs: Path, images: dict[str, tuple[str, str, str]]) -> None:
    """PadChest's own table of (patient, study, projection) by image, with its unnamed first column."""
    lines = [",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,Projection,Labels"]
    for k, (image, (patient, study, projection)) in enumerate(images.items()):
        lines.append(f"{k},{image},0,20140915,{study},{patient},{projection},\"['normal', '']\"")
    (inputs / PADCHEST_FILE).write_text("\n".join(lines) + "\n")


def test_with_the_table_of_padchest_patients_studies_and_views_are_known(inputs):
    path = inputs / TRAIN_FILES[0]
    path.write_text(path.read_text().replace(LONG, "1.90E+38"))
    rows = {
        "1_a.png": (LONG, "1", "PA"),
        "1_b.png": (LONG, "1", "L"),
        "2_c.png": ("17", "2", "AP_horizontal"),
        "3_d.png": (HEX, "3", "EXCLUDE"),
        "of nobody's interest": ("", "", ""),
    }
    padchest_table(inputs, dict(reversed(rows.items())))
    table = get_challenge(NAME, inputs).read("train", inputs)
    assert table["patient"].tolist() == [LONG, LONG, HEX]
    assert table["study"].tolist() == [f"{LONG}/1", f"{LONG}/1", f"{HEX}/3"]
    assert table["view"].tolist() == ["frontal", "lateral", "unknown"]
    assert table["Normal"].tolist() == [1, 1, 0]
    with pytest.raises(UserError, match=rf"{PADCHEST_FILE} lacks 2 of 2 images of {DEV_FILE}: 9_z"):
        get_challenge(NAME, inputs).read("dev", inputs)


def test_a_projection_in_the_table_itself_tells_the_view(inputs):
    lines = (inputs / TRAIN_FILES[0]).read_text().splitlines()
    lines = [f"{line},{word}" for line, word in zip(lines, ["Projection", "PA", "L", "AP", ""], strict=True)]
    (inputs / TRAIN_FILES[0]).write_text("\n".join(lines) + "\n")
    table = get_challenge(NAME, inputs).read("train", inputs)
    assert table["view"].tolist() == ["frontal", "lateral", "unknown"]


def test_blank_header_cells_hold_the_classes_in_their_order(inputs):
    challenge = get_challenge(NAME, inputs)
    dev = challenge.read("dev", inputs)
    assert dev.columns[4:].tolist() == list(CLASSES)
    assert dev[list(CLASSES)].isna().all(axis=None)
    text = (inputs / DEV_FILE).read_text()
    labels = ",".join("1" if name == "Hernia" else "0" for name in CLASSES)
    (inputs / DEV_FILE).write_text(text.replace("77" + "," * 30, f"77,{labels}"))
    dev = challenge.read("dev", inputs)
    assert dev.loc["9_z.png", list(CLASSES)].astype(float).idxmax() == "Hernia"
    assert dev.loc["8_y.png", list(CLASSES)].isna().all()


def test_splits_are_the_existing_tables_and_the_table_is_the_template(inputs):
    assert get_challenge(NAME, inputs).splits == ("train", "dev")
    assert get_challenge(NAME, inputs).template("dev", inputs) == ["9_z.png", "8_y.png"]
    write_table(inputs / "CXRLT_2026_TEST_TASK1.csv", [("7_x.png", "20170101", "79")], blank=True)
    challenge = get_challenge(NAME, inputs)
    assert challenge.splits == ("train", "dev", "test")
    assert challenge.template("test", inputs) == ["7_x.png"]
    write_table(inputs / "CXRLT_2026_TEST_2_TASK1.csv", [("7_x.png", "20170101", "79")], blank=True)
    with raises_user_error("CXRLT_2026_TEST_TASK1.csv", "CXRLT_2026_TEST_2_TASK1.csv"):
        get_challenge(NAME, inputs)


def test_an_unlabelled_training_table_is_refused(inputs):
    pd.DataFrame(ROWS, columns=KEYS).to_csv(inputs / TRAIN_FILES[0], index=False)
    with raises_user_error(TRAIN_FILES[0], "Normal"):
        get_challenge(NAME, inputs)
