"""Broken files next to a table: lists of images and classes, removals, challenge.yaml, templates, folders."""

import os

import pytest

from cxrlt.challenges import get_challenge
from cxrlt.challenges.csv_file import read_classes
from cxrlt.errors import MissingFileError, UserError
from layouts import CSV_SPEC, LAYOUTS, csv_bytes, replace_cell

LISTS = {
    "blank lines": (lambda t: t.replace(b"\n", b"\n\n"), None),
    "windows lines": (lambda t: t.replace(b"\n", b"\r\n"), None),
    "old mac lines": (lambda t: t.replace(b"\n", b"\r"), None),
    "byte order mark": (lambda t: b"\xef\xbb\xbf" + t, None),
    "tabs after names": (lambda t: t.replace(b"\n", b"\t \n"), None),
    "empty": (lambda t: b"", "is empty"),
    "line breaks alone": (lambda t: b"\n \n", "is empty"),
    "a line twice": (lambda t: t + t.split(b"\n")[0], "more than once"),
    "a line cut short": (lambda t: t[:-3], "lists images that"),
    "an unknown image": (lambda t: t + b"none.png", "lists images that"),
    "latin-1": (lambda t: t + b"M\xe4rz.png", "is not in UTF-8: invalid byte 0xe4 in line 13"),
    "utf-16": (lambda t: t.decode().encode("utf-16"), "is in UTF-16"),
    "a NUL character": (lambda t: t + b"\0", "NUL character in line 13"),
    "a line of 10 MB": (lambda t: t + b"x" * 10_000_000, "lists images that"),
}


@pytest.mark.parametrize(("change", "sentence"), LISTS.values(), ids=LISTS)
def test_a_list_of_images_is_read_as_it_is_or_refused(change, sentence, tmp_path):
    LAYOUTS["nih14"].write(tmp_path)
    listed = tmp_path / "train_val_list.txt"
    listed.write_bytes(change(listed.read_bytes()))
    challenge = get_challenge("nih14")
    if sentence is None:
        assert len(challenge.read("train", tmp_path)) == 12
        return
    with pytest.raises(UserError, match=sentence) as raised:
        challenge.read("train", tmp_path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("Mass\t\n\nHernia \r\n", None),
        ("Mass\n", "lacks the class Hernia"),
        ("Mass\nHernia\nhernia", "unknown classes: hernia"),
        ("Mass\nHernia\nMass", "more than once"),
        ("", "is empty"),
        (b"Mass\nHernia\n\xff", "is not in UTF-8"),
    ],
)
def test_a_list_of_classes_is_read_as_it_is_or_refused(content, sentence, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    if sentence is None:
        assert read_classes(tmp_path / "classes.txt", ("Hernia", "Mass")) == ("Mass", "Hernia")
        return
    with pytest.raises(UserError, match=sentence):
        read_classes(tmp_path / "classes.txt", ("Hernia", "Mass"))


@pytest.mark.parametrize(
    ("challenge", "file"),
    [
        ("cxrlt2024-task1", "test_task1.csv"),
        ("cxrlt2024-task1", "development_labeled_task1.csv"),
        ("cxrlt2026-task1", "Removal.csv"),
        ("cxrlt2026-task1", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"),
        ("cxrlt2026-task1", "Train_CLASS.txt"),
        ("csv", "test.csv"),
        ("nihlt", "Data_Entry_2017_v2020.csv"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "broken link", "damaged"])
def test_an_unreadable_companion_file_is_never_treated_as_missing(challenge, file, kind, tmp_path):
    LAYOUTS[challenge].write(tmp_path)
    path = tmp_path / file
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to("gone")
    else:
        path.write_bytes(b"\0")
    split = "dev" if "development" in file else "test" if "test" in file else "train"
    with pytest.raises(UserError) as raised:
        get_challenge(challenge, tmp_path).read(split, tmp_path)
    assert not isinstance(raised.value, MissingFileError)
    assert file in str(raised.value)


def test_an_official_table_with_a_repeated_image_is_refused(tmp_path):
    LAYOUTS["nihlt"].write(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("Image Index,View Position\na.png,PA\na.png,AP\n")
    with pytest.raises(UserError, match=r"more than one row for an image: row 2 \('a.png'\)"):
        get_challenge("nihlt").read("train", tmp_path)


SPECS = {
    "a list": ("- train.csv", "should contain lines like"),
    "a number for a file": (CSV_SPEC.replace("train.csv", "12"), "train: 12 is not text in YAML"),
    "a date for a column": (CSV_SPEC.replace("id: image", "id: 2020-01-01"), "is not text in YAML"),
    "true for a column": (CSV_SPEC.replace("id: image", "id: yes"), "id: True is not text in YAML"),
    "nothing for a column": (CSV_SPEC.replace("id: image", "id:"), "id: None is not text in YAML"),
    "a mapping for a column": (CSV_SPEC.replace("id: image", "id: {a: b}"), "is not text in YAML"),
    "an empty column": (CSV_SPEC.replace("id: image", "id: ''"), "has no column ''"),
    "an empty file": (CSV_SPEC.replace("train.csv", "''"), "is a folder|names files that do not exist"),
    "a word for classes": (CSV_SPEC.replace("[Mass, Hernia, No Finding]", "Mass"), "classes: "),
    "numbers for classes": (CSV_SPEC.replace("[Mass,", "[1,"), "classes.0: 1 is not text in YAML"),
    "a mapping for classes": (CSV_SPEC.replace("[Mass, Hernia, No Finding]", "{a: b}"), "classes: "),
    "the id for a class": (CSV_SPEC.replace("[Mass,", "[image,"), "uses image as a class and"),
    "channels true": (CSV_SPEC + "channels: true", "channels: Input should be 1 or 3"),
    "channels as text": (CSV_SPEC + "channels: '1'", "channels: Input should be 1 or 3"),
    "another task": (CSV_SPEC + "task: both", "task: Input should be 'multi_label' or 'single_label'"),
    "a key twice": (CSV_SPEC + "id: image", "the key 'id' twice"),
    "a file above": (CSV_SPEC.replace("train.csv", "../train.csv"), "train: is outside the folder"),
    "a file elsewhere": (CSV_SPEC.replace("test.csv", "/etc/hosts"), "test: is outside the folder"),
    "a file on a drive": (CSV_SPEC.replace("test.csv", "C:test.csv"), "test: is outside the folder"),
    "a file above, as on windows": (CSV_SPEC.replace("sample.csv", "..\\a"), "test_template: is outside"),
    "a file with a line break": (CSV_SPEC.replace("train.csv", '"a\\n/../train.csv"'), "is outside"),
    "a NUL in a file": (CSV_SPEC.replace("train.csv", '"a\\0.csv"'), "do not exist: a"),
    "images above": (CSV_SPEC + "images: ../..", "images: is outside the images folder"),
    "images elsewhere": (CSV_SPEC + "images: '\\\\host\\a'", "images: is outside the images folder"),
    "images nowhere": (CSV_SPEC + "images: ''", "images: is not a folder or glob pattern"),
    "a NUL in images": (CSV_SPEC + 'images: "a\\0"', "images: contains a control character"),
    "a suffix upwards": (CSV_SPEC + "suffix: /../../x", "must be inside the images folder"),
    "a long title": (CSV_SPEC + f"titel: {'x' * 100_000}", "did you mean 'title'"),
    "a long key": (CSV_SPEC + f"{'x' * 1000}: 1", "Unknown key 'xxx"),
}


@pytest.mark.parametrize(("spec", "sentence"), SPECS.values(), ids=SPECS)
def test_a_description_that_is_wrong_is_refused_in_a_sentence(spec, sentence, tmp_path):
    LAYOUTS["csv"].write(tmp_path)
    (tmp_path / "challenge.yaml").write_text(spec)
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")) as raised:
        get_challenge("csv", tmp_path).read("train", tmp_path)
    assert len(str(raised.value)) < 2000
    assert str(raised.value).isprintable()


TEMPLATES = {
    "another order": (lambda t: t.replace(b"Mass,Hernia", b"Hernia,Mass"), "is not a template of csv"),
    "a column less": (lambda t: t.replace(b",No Finding", b"").replace(b",.5\n", b"\n"), "is not a template"),
    "an id twice": (lambda t: t + b"z,.5,.5,.5\n", "more than one row for an image"),
    "an id turned into a number": (lambda t: t.replace(b"z,", b"1.9E+38,"), "has turned ids into numbers"),
    "no id": (lambda t: t.replace(b"z,", b" ,"), "no id in row 2"),
    "utf-16": (lambda t: t.decode().encode("utf-16"), "is in UTF-16"),
    "empty": (lambda t: b"", "is empty"),
    "a header alone": (lambda t: t[: t.index(b"\n") + 1], "a header but no rows"),
    "cut short": (lambda t: t[:-4], "not a complete CSV file"),
    "a line break in an id": (lambda t: t.replace(b"z,", b'"z\n",').replace(b"\nz", b"\nz"), None),
    "a line break within an id": (lambda t: t.replace(b"z,", b'"z\nz",'), "a line break or another control"),
}


@pytest.mark.parametrize(("change", "sentence"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_is_read_as_it_is_or_refused(change, sentence, tmp_path):
    LAYOUTS["csv"].write(tmp_path)
    path = tmp_path / "sample.csv"
    path.write_bytes(change(path.read_bytes()))
    challenge = get_challenge("csv", tmp_path)
    if sentence is None:
        assert challenge.template("test", tmp_path) == ["z"]
        return
    with pytest.raises(UserError, match=sentence):
        challenge.template("test", tmp_path)


def test_ids_that_differ_in_case_or_unicode_form_are_different_images(tmp_path):
    layout = LAYOUTS["csv"]
    path = layout.write(tmp_path)
    rows = layout.rows()
    for row, text in enumerate(("a\u0301", "\u00e1", "A", "a"), start=1):
        rows = replace_cell(layout.image, text, row)(rows)
    path.write_bytes(csv_bytes(rows))
    table = get_challenge("csv", tmp_path).read("train", tmp_path)
    assert table.index[:4].tolist() == ["a\u0301", "\u00e1", "A", "a"]


def image_folder(root, *names):
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    "name", [b"b/\xff.png", b"b/a\nb.png", b"b/\x1b[31m.png", b"\xff/a.png", b"b\n/a.png"]
)
def test_file_names_with_control_characters_are_refused(name, tmp_path):
    image_folder(tmp_path, b"a/1.png", b"b/2.png", name)
    with pytest.raises(UserError, match="names with control characters, or not in UTF-8") as raised:
        get_challenge("folder", tmp_path).read("train", tmp_path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("pattern", ["(", "(a){99999999999}", "(" * 5000 + ")" * 5000, "a", "(?P<", "*(a)"])
def test_an_invalid_regular_expression_for_patients_is_refused(pattern, tmp_path):
    image_folder(tmp_path, b"a/1.png", b"b/2.png")
    (tmp_path / "challenge.yaml").write_text(f"patient: '{pattern}'\n")
    with pytest.raises(UserError, match=r"patient: (is not a regular expression|needs a group)"):
        get_challenge("folder", tmp_path)


def test_a_circular_link_among_the_classes_is_a_user_error(tmp_path):
    image_folder(tmp_path, b"a/1.png", b"b/2.png")
    (tmp_path / "c").symlink_to("c")
    with pytest.raises(UserError, match=r"c cannot be read: Too many levels"):
        get_challenge("folder", tmp_path).read("train", tmp_path)
