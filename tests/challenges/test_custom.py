from pathlib import Path

import pytest

from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from user_errors import raises_user_error

SPEC = """
train: train.csv
test: test.csv
id: Image
patient: Case
view: Projection
"""
TRAIN = "Image,Case,Projection,Mass,Hernia\na,p1,PA,1,0\nb,p1,L,1,\nc,p2,,0,1\n"
TEST = "Image,Case\nd,p3\n"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    (tmp_path / "challenge.yaml").write_text(SPEC)
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    return tmp_path


def respell(inputs: Path, spec: str) -> Path:
    (inputs / "challenge.yaml").write_text(spec)
    return inputs


def test_a_users_csv_is_a_challenge_with_every_unnamed_column_a_class(inputs):
    challenge = get_challenge("csv", inputs)
    assert (challenge.name, challenge.splits, challenge.id_column) == ("csv", ("train", "test"), "Image")
    assert dict(challenge.train_counts) == {"Mass": 2, "Hernia": 1}
    assert challenge.train_images == 3
    assert challenge.strict_patients
    table = challenge.read("train", inputs)
    assert table["patient"].tolist() == ["p1", "p1", "p2"]
    assert table["view"].tolist() == ["frontal", "lateral", "unknown"]
    assert table["path"].tolist() == ["a", "b", "c"]
    assert table["study"].tolist() == ["a", "b", "c"]
    assert table["Hernia"].isna().tolist() == [False, True, False]


def test_a_test_table_may_lack_labels_views_and_patients(inputs):
    (inputs / "test.csv").write_text("Image\nd\n")
    table = get_challenge("csv", inputs).read("test", inputs)
    assert table[["patient", "Mass", "Hernia"]].isna().all(axis=None)
    assert table["view"].tolist() == ["unknown"]


def test_train_must_have_every_column_that_is_named(inputs):
    (inputs / "train.csv").write_text(TRAIN.replace("Case", "case"))
    with raises_user_error("train.csv", "'Case'", "'case'"):
        get_challenge("csv", respell(inputs, SPEC + "classes: [Mass, Hernia]\n"))


def test_classes_may_be_listed_and_then_other_columns_are_left_alone(inputs):
    (inputs / "train.csv").write_text("Image,Case,Projection,Age,Mass,Hernia\na,p1,PA,57,1,0\n")
    with raises_user_error("train.csv", "'Age'", "row 2", "'57'", "classes: [...]"):
        get_challenge("csv", inputs)
    assert get_challenge("csv", respell(inputs, SPEC + "classes: [Hernia, Mass]\n")).classes == (
        "Hernia",
        "Mass",
    )


def test_paths_come_from_a_column_or_from_the_id_with_a_suffix(inputs):
    suffixed = get_challenge("csv", respell(inputs, SPEC + "suffix: .jpg\nimages: pngs/*\n"))
    assert suffixed.read("train", inputs)["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert suffixed.image_folders() == ("pngs/*",)
    (inputs / "test.csv").write_text("Image,Case,File\nd,p3,x/d.png\n")
    (inputs / "train.csv").write_text("Image,Case,Projection,File,Mass\na,p1,PA,y/a.png,1\n")
    named = get_challenge("csv", respell(inputs, SPEC + "path: File\n"))
    assert named.classes == ("Mass",)
    assert named.read("test", inputs)["path"].tolist() == ["x/d.png"]


def test_the_template_orders_the_ids_if_there_is_one(inputs):
    assert get_challenge("csv", inputs).template("test", inputs) == ["d"]
    (inputs / "sample.csv").write_text("Image,Mass,Hernia\nf,0,0\ne,0,0\n")
    challenge = get_challenge("csv", respell(inputs, SPEC + "test_template: sample.csv\n"))
    assert challenge.template("test", inputs) == ["f", "e"]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            "Id,Mass,Hernia",
            r"sample\.csv is not a template of csv: it has no column 'Image' for the ids, but has 'Id'\. "
            r"If 'Id' contains the ids, add template_id: 'Id' to challenge\.yaml\.$",
        ),
        (
            "Image,Hernia,Mass",
            r"in another order: column 2 is 'Hernia', but should be 'Mass', column 3 is 'Mass', but should "
            r"be 'Hernia'\. List the classes in challenge\.yaml in the order of the template \(classes: \[",
        ),
        (
            "Image,Mass,Nodule,Usage",
            r"it lacks 'Hernia' and has 'Nodule', 'Usage'\. .*list .* in challenge\.yaml \(classes: \[",
        ),
        (
            "Mass,Hernia,Image",
            r"column 1 is 'Mass', but should be 'Image', .* Move the id column to the first place\.$",
        ),
        ("Image;Mass;Hernia", r"seem to be separated by ';'"),
    ],
)
def test_a_template_with_other_columns_is_refused_with_the_key_to_change(inputs, header, sentence):
    (inputs / "sample.csv").write_text(header + "\nd" + ",0" * header.count(",") + "\n")
    challenge = get_challenge("csv", respell(inputs, SPEC + "test_template: sample.csv\n"))
    with pytest.raises(UserError, match=sentence):
        challenge.template("test", inputs)


def test_ten_of_many_wrong_template_columns_are_named(inputs):
    (inputs / "sample.csv").write_text(
        "Image," + ",".join(f"C{k:03}" for k in range(200)) + "\nd" + ",0" * 200
    )
    challenge = get_challenge("csv", respell(inputs, SPEC + "test_template: sample.csv\n"))
    with pytest.raises(UserError, match=r"'C008', 'C009' … \(200 in all\)\. "):
        challenge.template("test", inputs)


def test_the_ids_of_a_submission_and_the_order_of_its_classes_may_be_the_templates(inputs):
    (inputs / "sample.csv").write_text("Id,Hernia,Mass\nf,0,0\ne,0,0\n")
    spec = SPEC + "test_template: sample.csv\ntemplate_id: Id\nclasses: [Hernia, Mass]\n"
    challenge = get_challenge("csv", respell(inputs, spec))
    assert challenge.template("test", inputs) == ["f", "e"]
    assert challenge.submission_columns == ("Id", "Hernia", "Mass")
    assert challenge.read("train", inputs).index.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (SPEC + "patients: Case\n", r"challenge\.yaml: Unknown key 'patients'; did you mean 'patient'\?"),
        (SPEC + "colour: red\n", r"Unknown key 'colour'; known keys: title, channels, metric, task, train"),
        (SPEC.replace("id: Image", ""), r"challenge\.yaml: The key 'id' is missing\."),
        (SPEC.replace("Image", "1e3"), r"no column '1e3'"),
        (SPEC.replace("Image", "12"), r"id: 12 is not text in YAML; put it in quotes\."),
        (SPEC + "classes: [Mass, No]\n", r"classes\.1: False is not text in YAML; put it in quotes\."),
        (SPEC + "classes: [Mass, Mass]\n", r"classes: must contain at least one name, and each name once"),
        (SPEC + "classes: []\n", r"classes: must contain at least one name"),
        (SPEC + "images: /data\n", r"images: is outside the images folder; set that folder with --images"),
        (SPEC + "images: ../x\n", r"images: is outside the images folder"),
        (SPEC + "template_id: Mass\n", r"challenge\.yaml uses Mass as a class and as another column"),
        (SPEC + "channels: 2\n", r"channels: Input should be 1 or 3 \(got 2\)\."),
        (
            SPEC + "metric: kappa\n",
            r"yaml: metric kappa needs one class per image: add task: single_label\.",
        ),
        ("train: [\n", r"challenge\.yaml is not valid YAML"),
        ("train.csv\n", r"challenge\.yaml should contain lines like 'title: My images'"),
        (SPEC + "dev: dev.csv\n", r"challenge\.yaml names files that do not exist: dev\.csv"),
    ],
)
def test_a_fault_of_the_description_is_a_sentence(inputs, spec, sentence):
    with pytest.raises(UserError, match=sentence):
        get_challenge("csv", respell(inputs, spec))


def test_a_single_label_task_is_one_that_says_so(inputs):
    one_hot = "Image,Case,Projection,Mass,Hernia\na,p1,PA,1,0\nb,p1,L,,\nc,p2,,0,1\n"
    (inputs / "train.csv").write_text(one_hot)
    assert get_challenge("csv", inputs).task == "multi_label"
    challenge = get_challenge("csv", respell(inputs, SPEC + "task: single_label\nchannels: 3\n"))
    assert (challenge.task, challenge.metric, challenge.channels) == ("single_label", "macro-F1", 3)
    assert all(recipe.startswith("lmf_") for recipe in challenge.recipes)
    respell(inputs, SPEC + "task: single_label\nmetric: kappa\n")
    assert get_challenge("csv", inputs).metric == "kappa"
    (inputs / "train.csv").write_text(one_hot.replace("PA,1,0", "PA,1,1"))
    with pytest.raises(UserError, match=r"train\.csv: in a single-label task .*row 2 \(Mass, Hernia\)"):
        get_challenge("csv", inputs)


def test_a_reserved_column_name_is_not_a_class(inputs):
    (inputs / "train.csv").write_text(TRAIN.replace("Mass", "view"))
    with pytest.raises(UserError, match=r"train\.csv has a class with the reserved name view"):
        get_challenge("csv", inputs)


def test_without_a_description_the_example_is_pointed_to(tmp_path):
    with raises_user_error("challenge.yaml", "docs/challenges.md"):
        get_challenge("csv", tmp_path)


def test_the_example_of_the_documentation_is_accepted(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "challenges.md").read_text(encoding="utf-8")
    example = page.split("## Your own images with a table")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "train.csv").write_text(
        "filename,patient_id,exam_id,projection,Mass,Hernia\na,p1,e1,PA,1,0\n"
    )
    for name in ("dev.csv", "test.csv"):
        (tmp_path / name).write_text("filename,patient_id\nb,p2\n")
    challenge = get_challenge("csv", respell(tmp_path, example))
    assert challenge.classes == ("Mass", "Hernia")
    assert challenge.read("train", tmp_path)["study"].tolist() == ["e1"]
