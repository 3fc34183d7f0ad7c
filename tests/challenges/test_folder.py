from pathlib import Path

import numpy as np
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.folder import FolderChallenge
from cxrlt.errors import UserError
from cxrlt.inputs.check import check
from cxrlt.inputs.shared_patients import find_shared_patients, read_dev_and_test
from user_errors import raises_user_error


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Three splits of two classes, the test images without one."""
    folder = tmp_path / "inputs" / "folder"
    put(folder, "train/mole/p1_a.png", "train/mole/p1_b.JPG", "train/melanoma/p2_a.jpeg")
    put(folder, "dev/mole/p1_a.png", "test/p7_a.png", "test/p8_a.png")
    return folder


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def challenge_of(inputs: Path, spec: str = "") -> FolderChallenge:
    if spec:
        (inputs / "challenge.yaml").write_text(spec)
    return get_challenge("folder", inputs)


def test_every_sub_folder_of_train_is_a_class_in_the_order_of_names(inputs: Path):
    challenge = challenge_of(inputs)
    assert dict(challenge.train_counts) == {"melanoma": 1, "mole": 2}
    assert list(challenge.train_counts) == ["melanoma", "mole"]
    assert (challenge.train_images, challenge.splits) == (3, ("train", "dev", "test"))
    assert (challenge.task, challenge.metric, challenge.channels) == ("single_label", "macro-F1", 1)


def test_a_table_is_one_hot_with_ids_below_the_split(inputs: Path):
    table = challenge_of(inputs).read("train", inputs)
    assert list(table.index) == ["melanoma/p2_a.jpeg", "mole/p1_a.png", "mole/p1_b.JPG"]
    assert table["mole"].tolist() == [0, 1, 1] and table["melanoma"].tolist() == [1, 0, 0]
    assert all((inputs / path).is_file() for path in table["path"])
    assert table["study"].tolist() == list(table.index)
    assert table["patient"].isna().all() and (table["view"] == "unknown").all()
    assert (table[["mole", "melanoma"]].dtypes == np.float32).all()


def test_images_of_test_need_no_class_folder(inputs: Path):
    challenge = challenge_of(inputs)
    table = challenge.read("test", inputs)
    assert list(table.index) == challenge.template("test", inputs) == ["p7_a.png", "p8_a.png"]
    assert table[["mole", "melanoma"]].isna().all(axis=None)


def test_without_splits_everything_is_train(tmp_path: Path):
    put(tmp_path, "a b/1.png", "c/1.png", ".git/config", "c/.DS_Store", "README.md")
    challenge = challenge_of(tmp_path)
    assert (challenge.splits, challenge.classes) == (("train",), ("a b", "c"))
    assert challenge.read("train", tmp_path)["path"].tolist() == ["a b/1.png", "c/1.png"]


def test_equal_names_in_two_splits_are_different_images(inputs: Path):
    workspace = Workspace(inputs.parents[1])
    challenge = challenge_of(inputs)
    train = challenge.read("train", inputs)
    assert set(train.index) & set(challenge.read("dev", inputs).index)
    assert find_shared_patients(train, read_dev_and_test(challenge, workspace)).images.empty
    assert "No problem found" in check(challenge, workspace)


def test_patients_come_from_file_names_with_a_regular_expression(inputs: Path):
    challenge = challenge_of(inputs, "title: Skin\nchannels: 3\nmetric: kappa\npatient: ^(p[0-9]+)_\n")
    assert (challenge.title, challenge.channels, challenge.metric) == ("Skin", 3, "kappa")
    assert challenge.read("train", inputs)["patient"].tolist() == ["p2", "p1", "p1"]
    with pytest.raises(UserError, match=r"1 in dev \(p1\); they have 2 of the 3 training images"):
        check(challenge, Workspace(inputs.parents[1]))


def test_a_name_without_a_patient_is_named(inputs: Path):
    put(inputs, "train/mole/x.png", "train/mole/_y.png")
    challenge = challenge_of(inputs, "patient: ^(p?[0-9]*)_\n")
    with raises_user_error("2 of 5", "mole/_y.png, mole/x.png"):
        challenge.read("train", inputs)


def test_the_example_of_the_documentation_is_accepted(inputs: Path):
    page = (Path(__file__).parents[2] / "docs" / "challenges.md").read_text(encoding="utf-8")
    example = page.split("## Your own images in folders")[1].split("```yaml\n")[1].split("```")[0]
    challenge = challenge_of(inputs, example)
    assert (challenge.title, challenge.channels, challenge.metric) == ("Moles", 3, "kappa")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("patient: p[0-9]+\n", r"patient: needs a group in parentheses"),
        ("patient: (p\n", r"patient: is not a regular expression"),
        ("chanels: 3\n", r"Unknown key 'chanels'; did you mean 'channels'\?"),
        ("metric: F1\n", r"metric: must be one of macro-F1, .*mAP, mAUROC \(got 'F1'\)"),
    ],
)
def test_a_fault_of_the_description_is_a_sentence(inputs: Path, spec: str, sentence: str):
    with pytest.raises(UserError, match=rf"challenge\.yaml: {sentence}"):
        challenge_of(inputs, spec)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["train/mole/notes.txt"],
            r"train: class folders must contain only images .*, \.jpeg, but see mole/notes\.txt\.",
        ),
        (["train/mole/deep/a.png"], r"but see mole/deep\."),
        (["train/a.png"], r"train has images outside class folders: a\.png"),
        (["train/view/a.png"], r"a class with the reserved name view"),
        (["nevus/a.png"], r"folders next to train, dev, test: nevus"),
        (
            ["val/mole/a.png"],
            r"a folder 'val', but the names of the splits are train, dev, test\. Rename it to 'dev'",
        ),
        (["Train/mole/a.png"], r"a folder 'Train', .* Rename it to 'train'"),
    ],
)
def test_what_is_no_class_or_split_is_refused(inputs: Path, names: list[str], sentence: str):
    put(inputs, *names)
    with pytest.raises(UserError, match=sentence):
        challenge_of(inputs)


def test_an_empty_class_a_single_class_and_none_are_refused(inputs: Path):
    (inputs / "train" / "nevus").mkdir()
    with pytest.raises(UserError, match=r"class folders without images: nevus"):
        challenge_of(inputs)
    (inputs / "train" / "nevus").rmdir()
    (inputs / "train" / "melanoma").rename(inputs / "train" / ".melanoma")
    with pytest.raises(UserError, match=r"only the class 'mole': make one folder with images for each"):
        challenge_of(inputs)
    (inputs / "train" / "mole").rename(inputs / "train" / ".mole")
    with pytest.raises(UserError, match=r"train has no class folder"):
        challenge_of(inputs)
    (inputs / "train").rename(inputs / ".train")
    with pytest.raises(UserError, match=r"has dev, test, but no folder 'train'"):
        challenge_of(inputs)


def test_a_class_that_is_not_in_train_gets_a_suggestion(inputs: Path):
    put(inputs, "dev/Melanomas/a.png", "dev/wart/a.png")
    challenge = challenge_of(inputs)
    with raises_user_error("'Melanomas'", "'melanoma'", "'wart'"):
        challenge.read("dev", inputs)


def test_a_split_is_sorted_into_classes_or_not_at_all(inputs: Path):
    put(inputs, "test/mole/a.png")
    challenge = challenge_of(inputs)
    with pytest.raises(UserError, match=r"but also images without a class: p7_a\.png, p8_a\.png"):
        challenge.read("test", inputs)
    put(inputs, "dev/mole/b.png")
    for file in (inputs / "dev" / "mole").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"dev has no images"):
        challenge.read("dev", inputs)


def test_no_folder_is_answered_with_the_readme(tmp_path: Path):
    with raises_user_error("absent", "docs/challenges.md"):
        get_challenge("folder", tmp_path / "absent")
