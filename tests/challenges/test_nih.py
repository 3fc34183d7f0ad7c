import pytest

from cxrlt.challenges import get_challenge
from cxrlt.errors import MissingFileError, UserError
from user_errors import raises_user_error

NIH14, NIHLT, NIHLT_SINGLE = (get_challenge(name) for name in ("nih14", "nihlt", "nihlt-single"))
HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = {
    "00000001_000.png": "Cardiomegaly|Pleural_Thickening,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png": "No Finding,1,1,58,M,AP,2682,2749,0.143,0.143",
    "00000002_000.png": "Hernia,0,2,81,M,PA,2500,2048,0.171,0.171",
}


def write_entries(folder, name="Data_Entry_2017_v2020.csv", header=HEADER_2020, tail="", rows=ROWS):
    lines = [header + tail, *(f"{image},{rest}{tail}" for image, rest in rows.items())]
    (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "train_val_list.txt").write_text("00000001_001.png\n00000001_000.png")
    (folder / "test_list.txt").write_text("00000002_000.png\n")


@pytest.mark.parametrize(
    ("name", "header", "tail"),
    [
        ("Data_Entry_2017_v2020.csv", HEADER_2020, ""),
        ("Data_Entry_2017.csv", HEADER_2020, ","),
        ("Data_Entry_2017.csv", HEADER_2020 + ",Unnamed: 11", ""),
        ("Data_Entry_2017_v2020.csv", HEADER_2020.replace("Gender", "Sex"), ""),
    ],
)
def test_every_published_header_gives_the_same_table(tmp_path, name, header, tail):
    rows = {image: rest + ("," if "Unnamed" in header else "") for image, rest in ROWS.items()}
    write_entries(tmp_path, name, header, tail, rows)
    table = NIH14.read("train", tmp_path)
    assert table.index.tolist() == ["00000001_001.png", "00000001_000.png"]
    assert table["patient"].tolist() == ["1", "1"]
    assert table["study"].is_unique
    assert table["view"].tolist() == ["frontal", "frontal"]
    assert table.columns[4:].tolist() == list(NIH14.classes)
    assert table.columns[4:][table.loc["00000001_000.png"].iloc[4:] == 1].tolist() == [
        "Cardiomegaly",
        "Pleural_Thickening",
    ]
    assert table.loc["00000001_001.png"].iloc[4:].tolist() == [0] * 14


def test_the_official_lists_make_the_splits_and_there_is_no_dev(tmp_path):
    write_entries(tmp_path)
    assert NIH14.read("test", tmp_path)["Hernia"].tolist() == [1]
    assert NIH14.template("test", tmp_path) == ["00000002_000.png"]
    with pytest.raises(UserError, match="nih14 has no split 'dev': it has train, test"):
        NIH14.read("dev", tmp_path)


def test_a_list_with_another_spelling_of_an_image_reports_it(tmp_path):
    write_entries(tmp_path)
    path = tmp_path / "test_list.txt"
    path.write_text(path.read_text().replace(".png", ".PNG"))
    with raises_user_error("00000002_000.PNG", "1"):
        NIH14.read("test", tmp_path)


def test_an_unknown_finding_is_refused_with_its_rows_and_a_suggestion(tmp_path):
    write_entries(tmp_path, rows=ROWS | {"00000001_000.png": "Mass|Pleural Thickening,0,1,57,M,PA,1,1,1,1"})
    with raises_user_error("'Pleural Thickening'", "did you mean Pleural_Thickening?"):
        NIH14.read("train", tmp_path)
    with raises_user_error("Data_Entry_2017_v2020.csv", "row 2", "'Mass|Pleural Thickening'"):
        NIH14.read("train", tmp_path)


def test_no_finding_beside_a_finding_is_refused(tmp_path):
    write_entries(tmp_path, rows=ROWS | {"00000001_000.png": "Mass|No Finding,0,1,57,M,PA,1,1,1,1"})
    with pytest.raises(UserError, match=r"No Finding together with a finding in row 2"):
        NIH14.read("train", tmp_path)


def test_a_listed_image_without_an_entry_is_refused(tmp_path):
    write_entries(tmp_path)
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n00000009_000.png\n")
    with raises_user_error("test_list.txt", "Data_Entry_2017_v2020.csv", "00000009_000.png"):
        NIH14.read("test", tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"train_val_list\.txt does not exist"):
        NIH14.read("train", tmp_path)
    (tmp_path / "train_val_list.txt").write_text("a.png\n")
    with pytest.raises(
        MissingFileError, match=r"does not contain Data_Entry_2017_v2020\.csv or Data_Entry_2017\.csv"
    ):
        NIH14.read("train", tmp_path)
    with pytest.raises(MissingFileError, match=r"miccai2023_nih-cxr-lt_labels_val\.csv does not exist"):
        NIHLT.read("dev", tmp_path)


def test_nihlt_takes_views_from_the_entries_where_they_are(tmp_path):
    header = ",".join(["id", *NIHLT.classes, "subj_id"])
    zeros = ",".join("0" * 20)
    text = f"{header}\n00000001_000.png,{zeros},00000001\n00000007_000.png,{zeros},00000007\n"
    (tmp_path / "miccai2023_nih-cxr-lt_labels_val.csv").write_text(text)
    assert NIHLT.read("dev", tmp_path)["view"].tolist() == ["unknown", "unknown"]
    write_entries(tmp_path)
    table = NIHLT.read("dev", tmp_path)
    assert table["view"].tolist() == ["frontal", "unknown"]
    assert table["patient"].tolist() == ["00000001", "00000007"]


def test_the_single_label_version_keeps_the_images_with_one_class_in_their_order(tmp_path):
    rows = {"a": [], "b": ["Mass"], "c": ["Mass", "Nodule"], "d": ["No Finding"], "e": ["Hernia"]}
    lines = [",".join(["id", *NIHLT.classes, "subj_id"])]
    for image, found in rows.items():
        lines.append(",".join([image, *("01"[name in found] for name in NIHLT.classes), "1"]))
    lines.append(",".join(["f", "1", *[""] * 19, "1"]))
    (tmp_path / "miccai2023_nih-cxr-lt_labels_test.csv").write_text("\n".join(lines) + "\n")
    table = NIHLT_SINGLE.read("test", tmp_path)
    assert list(table.index) == NIHLT_SINGLE.template("test", tmp_path) == ["b", "d", "e"]
    named = table[list(NIHLT_SINGLE.classes)].idxmax(axis=1)
    assert list(named) == ["Mass", "No Finding", "Hernia"]
    assert len(NIHLT.read("test", tmp_path)) == 6


def test_the_lists_of_2022_are_never_read(tmp_path):
    for part in ("train", "test", "balanced-val", "balanced-test"):
        text = ",".join(["id", *NIHLT.classes, "subject_id"]) + "\na," + ",".join(["1", *"0" * 19, "1"])
        (tmp_path / f"nih-cxr-lt_single-label_{part}.csv").write_text(text)
    with pytest.raises(MissingFileError, match=r"miccai2023_nih-cxr-lt_labels_test\.csv does not exist"):
        NIHLT_SINGLE.read("test", tmp_path)


def test_the_single_label_task_is_compared_by_macro_f1():
    assert (NIHLT_SINGLE.task, NIHLT_SINGLE.metric) == ("single_label", "macro-F1")
    assert {name: len(group) for name, group in NIHLT_SINGLE.groups.items()} == {
        "head": 2,
        "medium": 8,
        "tail": 10,
    }


@pytest.mark.parametrize(
    ("challenge", "rows"),
    [
        (NIH14, {"train": 86_524, "test": 25_596}),
        (NIHLT, {"train": 78_506, "dev": 12_533, "test": 21_081}),
        (NIHLT_SINGLE, {"train": 65_815, "dev": 9_919, "test": 14_470}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_official_tables_give_the_official_counts_and_no_patient_twice(nih_data, challenge, rows):
    tables = {split: challenge.read(split, nih_data) for split in challenge.splits}
    assert {split: len(table) for split, table in tables.items()} == rows
    train = tables["train"]
    assert challenge.train_images == len(train)
    assert challenge.train_counts == {name: int(train[name].sum()) for name in challenge.classes}
    for split, table in tables.items():
        assert split == "train" or not set(train["patient"]) & set(table["patient"])
        assert challenge.template(split, nih_data) == table.index.tolist()
        one_hot = (table[list(challenge.classes)].sum(axis=1) == 1).all()
        assert one_hot == (challenge.task == "single_label")
