import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import MissingFileError, UserError
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check
from cxrlt.inputs.table import load_table
from user_errors import raises_user_error

HAM, ISIC2018, ISIC2019 = (get_challenge(name) for name in ("ham10000", "isic2018", "isic2019"))
HAM_HEADER = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
HAM_ROWS = [
    ["HAM_0000118", "ISIC_0027419", "bkl", "histo", "80.0", "male", "scalp"],
    ["HAM_0000118", "ISIC_0025030", "bkl", "histo", "80.0", "male", "scalp"],
    ["HAM_0002730", "ISIC_0026769", "nv", "consensus", "", "unknown", "unknown"],
]


def write_table(path, header, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(row) + "\n" for row in [header, *rows]))


def write_truth(path, classes, named, extra=()):
    """Write one-hot rows with "1.0" and "0.0", as published; `named` is the class of every image."""
    rows = [
        [image, *(str(float(name == each)) for each in classes), *(["0.5"] * len(extra))]
        for image, name in named.items()
    ]
    write_table(path, ["image", *classes, *extra], rows)


@pytest.mark.parametrize(
    ("name", "separator", "quote"),
    [
        ("HAM10000_metadata.csv", ",", ""),
        ("HAM10000_metadata", ",", '"'),
        ("HAM10000_metadata", "\t", ""),
        ("HAM10000_metadata.tab", "\t", '"'),
    ],
)
def test_every_published_copy_of_the_ham10000_table_gives_the_same_rows(tmp_path, name, separator, quote):
    rows = [[f"{quote}{cell}{quote}" for cell in row] for row in HAM_ROWS]
    write_table(tmp_path / name, HAM_HEADER, rows, separator)
    table = HAM.read("train", tmp_path)
    assert table.index.tolist() == [row[1] for row in HAM_ROWS]
    assert table["patient"].tolist() == ["HAM_0000118", "HAM_0000118", "HAM_0002730"]
    assert table["path"].tolist()[0] == "ISIC_0027419.jpg"
    assert table[list(HAM.classes)].idxmax(axis=1).tolist() == ["bkl", "bkl", "nv"]
    assert (table[list(HAM.classes)].sum(axis=1) == 1).all()


def test_ham10000_has_no_official_test_set_and_names_an_unknown_diagnosis(tmp_path):
    write_table(
        tmp_path / "HAM10000_metadata.csv", HAM_HEADER, [*HAM_ROWS[:2], ["L", "I", "naevus", *"abcd"]]
    )
    with raises_user_error("HAM10000_metadata.csv", "row 4", "'naevus'", "akiec, bcc"):
        HAM.read("train", tmp_path)
    with pytest.raises(UserError, match="ham10000 has no split 'test': it has train"):
        HAM.read("test", tmp_path)
    with pytest.raises(MissingFileError, match=r"HAM10000_metadata\.csv or HAM10000_metadata or"):
        HAM.read("train", tmp_path / "nothing")


def write_2018(folder, part="Training", named=None, extra=()):
    named = named or {"ISIC_1": "NV", "ISIC_2": "NV", "ISIC_3": "MEL"}
    write_truth(folder / f"ISIC2018_Task3_{part}_GroundTruth.csv", ISIC2018.classes, named, extra)


def test_isic_2018_finds_its_classes_by_name_among_the_weights_of_the_scorer(tmp_path):
    write_2018(tmp_path, "Test", {"ISIC_9": "DF", "ISIC_8": "VASC"}, ("score_weight", "validation_weight"))
    table = ISIC2018.read("test", tmp_path)
    assert table.columns[4:].tolist() == ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    assert table[list(ISIC2018.classes)].idxmax(axis=1).tolist() == ["DF", "VASC"]
    assert ISIC2018.template("test", tmp_path) == ["ISIC_9", "ISIC_8"]
    assert table["patient"].isna().all()
    with pytest.raises(MissingFileError, match=r"ISIC2018_Task3_Validation_GroundTruth\.csv does not exist"):
        ISIC2018.read("dev", tmp_path)


def test_lesions_of_isic_2018_come_from_its_groupings_else_from_ham10000_else_are_unknown(tmp_path):
    write_2018(tmp_path)
    assert ISIC2018.read("train", tmp_path)["patient"].isna().all()
    (note,) = (line for line in ISIC2018.notes(tmp_path) if "unknown" in line)
    assert "LesionGroupings.csv or HAM10000_metadata.csv" in note
    ham = [["HAM_1", "ISIC_3", *"abcde"], ["HAM_1", "ISIC_1", *"abcde"], ["HAM_2", "ISIC_2", *"abcde"]]
    write_table(tmp_path / "HAM10000_metadata.csv", HAM_HEADER, ham)
    assert ISIC2018.read("train", tmp_path)["patient"].tolist() == ["HAM_1", "HAM_2", "HAM_1"]
    groupings = tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv"
    header = ["image", "lesion_id", "diagnosis_confirm_type"]
    write_table(groupings, header, [[f"ISIC_{k}", "HAM_7", "histo"] for k in (1, 2, 3)])
    assert ISIC2018.read("train", tmp_path)["patient"].tolist() == ["HAM_7"] * 3
    write_table(groupings, header, [["ISIC_1", "HAM_7", "histo"], ["isic_2", "HAM_7", "histo"]])
    with raises_user_error(groupings.name, "lacks 2 of 3 images: ISIC_2, ISIC_3", "'isic_2'"):
        ISIC2018.read("train", tmp_path)
    write_table(groupings, header, [["ISIC_1", "HAM_7", "histo"], ["ISIC_1", "HAM_8", "histo"]])
    with raises_user_error(groupings.name, "more than one row for an image", "row 3"):
        ISIC2018.read("train", tmp_path)


def test_a_training_table_of_another_length_is_noted_with_the_known_wrong_copy(tmp_path):
    write_2018(tmp_path)
    (note,) = (line for line in ISIC2018.notes(tmp_path) if "official one" in line)
    assert "has 3 rows; the official one has 10,015" in note and "7,470 rows" in note


def write_2019(folder, named=None, lesions=None, sex="sex"):
    named = named or {"ISIC_1": "NV", "ISIC_2": "SCC", "ISIC_3": "MEL", "ISIC_4": "MEL"}
    write_truth(folder / "ISIC_2019_Training_GroundTruth.csv", [*ISIC2019.classes, "UNK"], named)
    lesions = lesions or {"ISIC_1": "", "ISIC_2": "HAM_1", "ISIC_3": "", "ISIC_4": "HAM_1"}
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", sex]
    rows = [[image, "55", "", lesion, "female"] for image, lesion in lesions.items()]
    write_table(folder / "ISIC_2019_Training_Metadata.csv", header, rows)


@pytest.mark.parametrize("sex", ["sex", "gender"])
def test_an_image_of_isic_2019_without_a_lesion_is_its_own_group(tmp_path, sex):
    write_2019(tmp_path, sex=sex)
    table = ISIC2019.read("train", tmp_path)
    first, second, third, fourth = table["patient"]
    assert second == fourth == "HAM_1"
    assert (first, third) == ("no lesion_id: ISIC_1", "no lesion_id: ISIC_3")
    assert "UNK" not in table.columns
    assert "2 training images have no lesion_id" in " ".join(ISIC2019.notes(tmp_path))


def test_a_training_image_of_isic_2019_without_metadata_or_without_a_class_is_refused(tmp_path):
    write_2019(tmp_path, lesions={"ISIC_1": "", "ISIC_2": "", "ISIC_3": ""})
    with raises_user_error("ISIC_2019_Training_Metadata.csv", "lacks 1 of 4 images: ISIC_4"):
        ISIC2019.read("train", tmp_path)
    write_2019(tmp_path, {"ISIC_1": "NV", "ISIC_2": "UNK"}, {"ISIC_1": "", "ISIC_2": ""})
    with raises_user_error("ISIC_2019_Training_GroundTruth.csv", "row 3 (no 1)"):
        ISIC2019.read("train", tmp_path)
    write_2019(tmp_path)
    (tmp_path / "ISIC_2019_Training_Metadata.csv").unlink()
    with pytest.raises(MissingFileError, match=r"ISIC_2019_Training_Metadata\.csv does not exist"):
        ISIC2019.read("train", tmp_path)


def test_test_images_of_isic_2019_of_the_class_unk_are_predicted_but_not_scored(tmp_path):
    rows = [[f"ISIC_{k}", "60", "", "male"] for k in (7, 8, 9)]
    header = ["image", "age_approx", "anatom_site_general", "sex"]
    write_table(tmp_path / "ISIC_2019_Test_Metadata.csv", header, rows)
    classes = list(ISIC2019.classes)
    assert ISIC2019.read("test", tmp_path)[classes].isna().all(axis=None)
    truth, named = tmp_path / "ISIC_2019_Test_GroundTruth.csv", [*classes, "UNK"]
    write_truth(truth, named, {"ISIC_9": "SCC", "ISIC_8": "UNK", "ISIC_7": "MEL"}, ("score_weight",))
    table = ISIC2019.read("test", tmp_path)
    assert ISIC2019.template("test", tmp_path) == table.index.tolist() == ["ISIC_7", "ISIC_8", "ISIC_9"]
    assert table.loc["ISIC_8", classes].isna().all()
    assert table.drop("ISIC_8")[classes].idxmax(axis=1).tolist() == ["MEL", "SCC"]
    write_truth(truth, named, {"ISIC_9": "SCC", "ISIC_8": "none", "ISIC_7": "MEL"})
    with raises_user_error("ISIC_2019_Test_GroundTruth.csv", "row 3 (no 1)"):
        ISIC2019.read("test", tmp_path)
    write_truth(truth, named, {"ISIC_9": "SCC"})
    with raises_user_error("ISIC_2019_Test_GroundTruth.csv", "lacks 2 of 3 images: ISIC_7, ISIC_8"):
        ISIC2019.read("test", tmp_path)


def test_images_that_two_sets_share_are_counted_if_both_tables_are_there(tmp_path):
    write_2019(tmp_path / "isic2019")
    (sentence,) = (line for line in ISIC2019.notes(tmp_path / "isic2019") if "never train" in line)
    assert "All 10,015 images of HAM10000" in sentence
    rows = [["HAM_1", "ISIC_2", "akiec", *"abcd"], ["HAM_2", "ISIC_5", "nv", *"abcd"]]
    write_table(tmp_path / "ham10000" / "HAM10000_metadata.csv", HAM_HEADER, rows)
    for challenge, other in ((ISIC2019, "ham10000"), (HAM, "isic2019")):
        notes = challenge.notes(tmp_path / challenge.name)
        (found,) = (line for line in notes if "never train" in line)
        assert found.startswith(f"1 images of train are also in train of {other}: never train on one")


def test_skin_images_are_in_colour_and_compared_by_the_metric_of_each_set():
    balanced = "balanced-accuracy"
    for challenge, metric in ((HAM, "macro-F1"), (ISIC2018, balanced), (ISIC2019, balanced)):
        assert (challenge.channels, challenge.task, challenge.metric) == (3, "single_label", metric)
        assert challenge.group_word == "lesion"
    assert ISIC2019.groups["tail"] == ["DF", "VASC"]
    assert HAM.groups["head"] == ["bkl", "mel", "nv"]


@pytest.mark.parametrize(
    ("challenge", "folders"),
    [
        (HAM, ["HAM10000_images_part_1", "HAM10000_images_part_2", "ham10000_images_part_1", "images", "."]),
        (ISIC2018, ["ISIC2018_Task3_Training_Input", "images", "."]),
        (ISIC2019, ["ISIC_2019_Training_Input", "ISIC_2019_Training_Input/ISIC_2019_Training_Input", "."]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_images_are_found_in_every_published_folder(tmp_path, challenge, folders):
    workspace = Workspace(tmp_path)
    inputs = workspace.inputs_dir(challenge.name)
    for folder in folders:
        (inputs / folder).mkdir(parents=True, exist_ok=True)
    write_table(inputs / "HAM10000_metadata.csv", HAM_HEADER, HAM_ROWS)
    named = {row[1]: "NV" for row in HAM_ROWS}
    write_2018(inputs, named=named)
    write_2019(inputs, named, dict.fromkeys(named, ""))
    for folder in folders:
        for image in named:
            (inputs / folder / f"{image}.jpg").touch()
        table = load_table(challenge, "train", workspace)
        assert {str(inputs / folder / f"{image}.jpg") for image in named} == set(table["file"])
        for image in named:
            (inputs / folder / f"{image}.jpg").unlink()


OFFICIAL = {"ham10000": (7_470, "isic2019"), "isic2018": (0, "isic2019"), "isic2019": (13_931, "ham10000")}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_tables_give_the_official_counts_and_folds_keep_lesions_whole(
    single_label_data, tmp_path, name
):
    challenge, (n_lesions, other) = get_challenge(name), OFFICIAL[name]
    inputs = single_label_data / name
    train = challenge.read("train", inputs)
    assert (len(train), train["patient"].nunique()) == (challenge.train_images, n_lesions)
    assert challenge.train_counts == {each: int(train[each].sum()) for each in challenge.classes}
    notes = " ".join(challenge.notes(inputs))
    assert f"10,015 images of train are also in train of {other}" in notes
    assert ("Lesions are unknown" in notes) == (n_lesions == 0)
    assert ("2,084 training images have no lesion_id" in notes) == (name == "isic2019")
    images = single_label_data / ("isic2019" if name == "isic2019" else "ham10000")
    workspace = Workspace(tmp_path, inputs, images)
    report = check(challenge, workspace, allow_missing=True)
    assert "No problem found" in report
    make_folds(challenge, workspace, allow_missing=True)
    folds = pd.read_csv(workspace.folds_path(name), dtype=str)
    assert len(folds) == (693 if name == "isic2019" else 574)
    if n_lesions:
        assert (folds.groupby("patient")["fold"].nunique() == 1).all()
        assert folds["patient"].equals(folds["image_id"].map(train["patient"]))
