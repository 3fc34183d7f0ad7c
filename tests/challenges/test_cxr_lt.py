import numpy as np
import pytest

from cxrlt.challenges import get_challenge
from cxrlt.errors import MissingFileError, UserError
from user_errors import raises_user_error

DEMO = get_challenge("demo")
TASK1, TASK2 = get_challenge("cxrlt2024-task1"), get_challenge("cxrlt2024-task2")

# where the classes of task 2 stand among those of task 1; 24 before 23 is the trap
TASK2_IN_TASK1 = [
    1,
    3,
    4,
    6,
    7,
    8,
    9,
    10,
    12,
    14,
    17,
    20,
    21,
    22,
    24,
    23,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
    36,
    37,
    38,
]


def test_task_2_takes_its_classes_from_task_1_with_normal_before_nodule():
    assert [TASK1.classes.index(name) for name in TASK2.classes] == TASK2_IN_TASK1
    assert TASK2.classes[14:16] == ("Normal", "Nodule")
    assert TASK1.classes[23:25] == ("Nodule", "Normal")
    assert all(TASK2.train_counts[name] == TASK1.train_counts[name] for name in TASK2.classes)


def test_counts_belong_to_their_classes():
    assert (TASK1.train_counts["Nodule"], TASK1.train_counts["Normal"]) == (7531, 34292)
    assert max(TASK1.train_counts, key=TASK1.train_counts.get) == "Support Devices"
    assert min(TASK1.train_counts, key=TASK1.train_counts.get) == "Lobar Atelectasis"
    assert sum(TASK1.train_counts.values()) == 633_025
    assert list(TASK1.classes) == sorted(TASK1.classes)


def test_a_submission_has_the_id_and_every_class_in_template_order():
    assert DEMO.submission_columns[:2] == ("dicom_id", "Atelectasis")
    assert len(DEMO.submission_columns) == 27


def test_the_2023_layout_becomes_the_table_with_columns_in_any_order(write_cxr_lt):
    inputs = write_cxr_lt("train.csv", ["b", "a"], DEMO.classes[::-1], {"b": ["Hernia", "Mass"]})
    table = DEMO.read("train", inputs)
    assert table.index.tolist() == ["b", "a"]
    assert table.columns[4:].tolist() == list(DEMO.classes)
    assert table.loc["b", ["patient", "study", "view"]].tolist() == ["10000", "s50000", "frontal"]
    assert table.loc["b", "path"] == "files/p10/p10000/s50000/b.jpg"
    positive = table.columns[4:][table.loc["b"].iloc[4:].to_numpy(dtype=float) == 1]
    assert set(positive) == {"Hernia", "Mass"}


@pytest.mark.parametrize("path_column", ["path", "fpath"])
@pytest.mark.parametrize("challenge", [DEMO, TASK1], ids=lambda challenge: challenge.name)
def test_the_path_column_may_have_either_years_name(write_cxr_lt, challenge, path_column):
    inputs = write_cxr_lt(challenge.tables["train"], ["a"], challenge.classes, {}, path_column)
    assert challenge.read("train", inputs)["path"].tolist() == ["files/p10/p10000/s50000/a.jpg"]


def test_development_and_test_need_no_labels_and_train_does(write_cxr_lt):
    for name in ("train.csv", "development.csv", "test.csv"):
        inputs = write_cxr_lt(name, ["a", "b"], DEMO.classes, None)
    for split in ("dev", "test"):
        table = DEMO.read(split, inputs)
        assert table[list(DEMO.classes)].isna().all(axis=None)
        assert set(table[list(DEMO.classes)].dtypes) == {np.dtype(np.float32)}
    with pytest.raises(UserError, match=r"train\.csv has no column for the classes Atelectasis"):
        DEMO.read("train", inputs)


def test_the_view_can_be_in_either_column_or_missing(write_cxr_lt):
    inputs = write_cxr_lt("train.csv", ["a", "b"], DEMO.classes, {})
    path = inputs / "train.csv"
    text = path.read_text()
    path.write_text(text.replace("AP,antero-posterior", ",lateral", 1).replace("AP,antero-posterior", ",", 1))
    assert DEMO.read("train", inputs)["view"].tolist() == ["lateral", "unknown"]
    path.write_text(text.replace("ViewPosition,ViewCodeSequence_CodeMeaning", "a,b"))
    assert DEMO.read("train", inputs)["view"].tolist() == ["unknown", "unknown"]


def test_task_2_trains_on_its_columns_of_the_shared_table(write_cxr_lt):
    inputs = write_cxr_lt("train_labeled.csv", ["a"], TASK1.classes, {"a": ["Normal", "Kyphosis"]}, "fpath")
    table = TASK2.read("train", inputs)
    assert table.columns[4:].tolist() == list(TASK2.classes)
    assert table.columns[4:][table.iloc[0, 4:] == 1].tolist() == ["Normal"]


def test_labels_in_a_separate_file_are_joined_by_id(write_cxr_lt):
    write_cxr_lt("development.csv", ["a", "b", "c"], TASK2.classes, None, "fpath")
    inputs = write_cxr_lt(
        "development_labeled_task2.csv", ["c", "a"], TASK2.classes, {"c": ["Mass"]}, "fpath"
    )
    table = TASK2.read("dev", inputs)
    assert table.index.tolist() == ["a", "b", "c"]
    assert table["Mass"].tolist()[::2] == [0, 1]
    assert table.loc["b", list(TASK2.classes)].isna().all()


def test_a_labelled_table_alone_is_enough_and_one_of_other_images_is_refused(write_cxr_lt):
    inputs = write_cxr_lt("test_labeled_task2.csv", ["a"], TASK2.classes, {"a": ["Mass"]}, "fpath")
    assert TASK2.read("test", inputs)["Mass"].tolist() == [1]
    write_cxr_lt("test_task2.csv", ["z"], TASK2.classes, None, "fpath")
    with raises_user_error("test_labeled_task2.csv", "test_task2.csv", ": a"):
        TASK2.read("test", inputs)
    write_cxr_lt("test_task2.csv", ["A"], TASK2.classes, None, "fpath")
    with raises_user_error(": a", "1", "'a'", "'A'"):
        TASK2.read("test", inputs)


def test_a_missing_table_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(MissingFileError, match=r"train\.csv does not exist\. Create it with: cxrlt demo"):
        DEMO.read("train", tmp_path)
    with pytest.raises(MissingFileError, match=r"test_task1\.csv does not exist\. docs/challenges\.md says"):
        TASK1.read("test", tmp_path)


def test_the_template_fixes_the_order_and_the_table_stands_in_for_it(write_cxr_lt):
    inputs = write_cxr_lt("test.csv", ["c", "a", "b"], DEMO.classes, None)
    assert DEMO.template("test", inputs) == ["c", "a", "b"]
    row = ",".join(["0.5"] * len(DEMO.classes))
    header = ",".join(DEMO.submission_columns)
    (inputs / "sample_submission.csv").write_text(f"{header}\na,{row}\nb,{row}\nc,{row}\n")
    assert DEMO.template("test", inputs) == ["a", "b", "c"]


def test_a_template_of_another_challenge_or_with_a_repeated_id_is_refused(write_cxr_lt):
    inputs = write_cxr_lt("test.csv", ["a"], DEMO.classes, None)
    sample = inputs / "sample_submission.csv"
    sample.write_text("dicom_id," + ",".join(DEMO.classes[::-1]) + "\na" + ",0" * len(DEMO.classes) + "\n")
    with pytest.raises(
        UserError, match=r"not a template of demo: .* column 2 is .* Use the sample submission of demo\.$"
    ):
        DEMO.template("test", inputs)
    row = "a" + ",0" * len(DEMO.classes) + "\n"
    sample.write_text(",".join(DEMO.submission_columns) + "\n" + row + row)
    with pytest.raises(UserError, match=r"more than one row for an image: row 2 \('a'\), row 3"):
        DEMO.template("test", inputs)


def test_rounded_atelectasis_keeps_its_parentheses(write_cxr_lt):
    name = "Round(ed) Atelectasis"
    inputs = write_cxr_lt("train_labeled.csv", ["a"], TASK1.classes, {"a": [name]}, "fpath")
    assert TASK1.read("train", inputs)[name].tolist() == [1]


def test_a_class_under_last_years_name_is_an_error_that_says_which_is_missing(write_cxr_lt):
    names = ["No Finding" if name == "Normal" else name for name in TASK2.classes]
    inputs = write_cxr_lt("train_labeled.csv", ["a"], names, {}, "fpath")
    with pytest.raises(UserError, match=r"train_labeled\.csv has no column for the class Normal\."):
        TASK2.read("train", inputs)


def test_a_gold_file_with_fewer_rows_than_the_table_leaves_the_others_unlabelled(write_cxr_lt):
    ids = [f"i{k}" for k in range(409)]
    write_cxr_lt("test_task2.csv", ids, TASK2.classes, None, "fpath", [f"1{k:07d}" for k in range(409)])
    gold = {image: ["Normal"] for image in ids[:406]}
    inputs = write_cxr_lt("test_labeled_task2.csv", ids[:406], TASK2.classes, gold, "fpath")
    table = TASK2.read("test", inputs)
    assert len(table) == 409
    assert table["Normal"].count() == table["Normal"].sum() == 406
    assert TASK2.template("test", inputs) == ids


def test_ids_keep_letters_and_leading_zeros(write_cxr_lt):
    inputs = write_cxr_lt("train_labeled.csv", ["a", "b"], TASK1.classes, {}, "fpath")
    path = inputs / "train_labeled.csv"
    path.write_text(path.read_text().replace(",s50001,", ",050001,"))
    assert TASK1.read("train", inputs)["study"].tolist() == ["s50000", "050001"]


@pytest.fixture
def kits(tmp_path, write_cxr_lt):
    """Both tasks' files in one folder, with a starting kit each, whose development.csv differ."""
    for task, challenge, images in ((1, TASK1, ["a", "b", "c"]), (2, TASK2, ["b", "a"])):
        write_cxr_lt("development.csv", images, challenge.classes, None, "fpath")
        kit = tmp_path / f"task{task}_development_starting_kit"
        kit.mkdir()
        (tmp_path / "development.csv").rename(kit / "development.csv")
        (kit / "EVAL_CLASSES.txt").write_text("".join(f"{name} \t\r\n" for name in challenge.classes))
        sample = "".join(f"{image}{',0' * len(challenge.classes)}\n" for image in images[::-1])
        name = f"development_task{task}_sample_submission.csv"
        (kit / name).write_text(",".join(challenge.submission_columns) + "\n" + sample)
    return tmp_path


def test_each_task_reads_the_table_and_the_template_of_its_own_starting_kit(kits):
    assert TASK1.read("dev", kits).index.tolist() == ["a", "b", "c"]
    assert TASK2.read("dev", kits).index.tolist() == ["b", "a"]
    assert TASK1.template("dev", kits) == ["c", "b", "a"]
    assert TASK2.template("dev", kits) == ["a", "b"]


def test_a_class_file_in_another_order_or_of_another_task_is_refused(kits):
    path = kits / "task2_development_starting_kit" / "EVAL_CLASSES.txt"
    names = list(TASK2.classes)
    names[14:16] = ["Nodule", "Normal"]
    path.write_text("\n".join(names))
    with pytest.raises(UserError, match="another order: line 15 is 'Nodule', but should be 'Normal'"):
        TASK2.template("dev", kits)
    path.write_text("\n".join(TASK1.classes))
    with pytest.raises(UserError, match=r"EVAL_CLASSES\.txt has unknown classes: Adenopathy"):
        TASK2.template("dev", kits)
    assert TASK1.template("dev", kits) == ["c", "b", "a"]
