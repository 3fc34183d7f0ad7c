import os
import socket
from pathlib import Path

import pytest

from cxrlt.challenges.csv_file import MAX_TABLE_BYTES, read_csv, read_lines
from cxrlt.challenges.custom import CsvSpec
from cxrlt.challenges.spec import read_spec
from cxrlt.errors import MissingFileError, UserError
from cxrlt.recipe import load_recipe
from cxrlt.submissions.read import read_submission
from cxrlt.system.user_files import MAX_TEXT_BYTES, MAX_YAML_BYTES, MAX_YAML_DEPTH, read_yaml

READERS = {
    "a table": read_csv,
    "a list": read_lines,
    "a submission": read_submission,
    "a recipe": lambda path: load_recipe(None, path),
    "a description": lambda path: read_spec(path, CsvSpec),
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@readers
def test_a_folder_a_pipe_a_socket_and_a_device_are_not_read(read, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the path of a socket has room for some hundred bytes
        listening.bind("socket")
        for path, kind in (("folder", "a folder"), ("pipe", "a pipe"), ("socket", "a socket")):
            with pytest.raises(UserError, match=f"{path} is {kind}, not a file") as raised:
                read(tmp_path / path)
            assert not isinstance(raised.value, MissingFileError)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match=f"{device} is a device"):
            read(Path(device))


@readers
def test_links_are_followed_unless_they_lead_nowhere(read, tmp_path):
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "pipe").symlink_to("/dev/zero")
    for name, sentence in (
        ("round", "cannot be read: Too many levels of symbolic links"),
        ("nowhere", "is a link to a file that does not exist"),
        ("pipe", "is a device"),
    ):
        with pytest.raises(UserError, match=sentence) as raised:
            read(tmp_path / name)
        assert not isinstance(raised.value, MissingFileError)


@readers
@pytest.mark.parametrize("name", ["none", "file/none", "nul\0", "\udcff", "x" * 300])
def test_a_missing_file_or_invalid_name_is_a_user_error(read, name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"does not exist|File name too long") as raised:
        read(tmp_path / name)
    assert str(raised.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@readers
def test_a_file_without_permission_is_a_user_error(read, tmp_path):
    (tmp_path / "mine").write_text("x")
    (tmp_path / "mine").chmod(0)
    with pytest.raises(UserError, match="permission denied"):
        read(tmp_path / "mine")


@pytest.mark.parametrize(
    ("read", "largest"),
    [
        (read_csv, MAX_TABLE_BYTES),
        (read_submission, MAX_TABLE_BYTES),
        (read_lines, MAX_TEXT_BYTES),
        (READERS["a recipe"], MAX_YAML_BYTES),
        (READERS["a description"], MAX_YAML_BYTES),
    ],
)
def test_a_file_larger_than_it_can_be_is_not_read(read, largest, tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(largest + 1)
    with pytest.raises(UserError, match=f"has {largest + 1:,} bytes; at most {largest:,} are allowed"):
        read(tmp_path / "large")


def nested_aliases(levels: int) -> str:
    """Return YAML of nested aliases, each of ten others ("billion laughs")."""
    lines = ["a0: &a0 lol"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines)


YAML = {
    "nothing": ("", "should contain an example"),
    "a comment alone": ("# nothing", "should contain an example"),
    "a list": ("- a\n- b", "should contain an example"),
    "a word": ("title", "should contain an example"),
    "a number for a key": ("1: a", "should contain an example"),
    "nothing for a key": ("null: a", "should contain an example"),
    "a list for a key": ("[a, b]: c", "found unhashable key"),
    "a mapping for a key": ("{a: b}: c", "found unhashable key"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' twice"),
    "a key twice further down": ("a: {b: 1, b: 2}", "line 1, column 11: the key 'b' twice"),
    "an alias": ("a: &x 1\nb: *x", "line 2, column 4: an alias: write the value out"),
    "an alias of what it stands in": ("a: &x [*x]", "an alias: write the value out"),
    "a billion laughs": (nested_aliases(12), "an alias: write the value out"),
    "an alias of nothing": ("a: *x", "an alias: write the value out"),
    "a python object": ("a: !!python/object/apply:os.system ['exit 3']", "column 4: a tag"),
    "a python name": ("a: !!python/name:os.system", "a tag"),
    "a tag for a key": ("!!str a: 1", "a tag"),
    "a tag on top": ("!!map {a: 1}", "a tag"),
    "a tag of one's own": ("a: !mine 1", "a tag"),
    "tabs": ("a:\n\tb: 1", "cannot start any token"),
    "an open bracket": ("a: [1, 2", "line 1, column"),
    "a day that is none": ("a: 2001-02-30", "day is out of range"),
    "a time that is none": ("a: 2001-02-03 25:61:00", "hour must be in"),
    "an overlong number": (f"a: {'9' * 5000}", "is not valid YAML"),
    "an overlong number of base 60": (f"a: {'1:' * 500}1.5", "is not valid YAML"),
    "a number without digits": ("a: 0b_", "is not valid YAML"),
    "deep brackets": (f"a: {'[' * 100_000}", f"more than {MAX_YAML_DEPTH} levels"),
    "deep braces": ("{a: " * 50_000, f"more than {MAX_YAML_DEPTH} levels"),
    "deep dashes": ("a:\n  " + "- " * 50_000, f"more than {MAX_YAML_DEPTH} levels"),
    "latin-1": (b"a: M\xe4rz", "is not in UTF-8: invalid byte 0xe4 in line 1"),
    "utf-16": ("a: 1".encode("utf-16"), "is in UTF-16"),
    "utf-16 without a mark": ("a: 1".encode("utf-16-le"), "NUL character"),
    "a control character": ("a: \x1b[31m", "is not valid YAML"),
    "a zip file": (b"PK\x03\x04" + bytes(30), "is a zip file"),
}


@pytest.mark.parametrize(("content", "sentence"), YAML.values(), ids=YAML)
def test_yaml_other_than_a_plain_mapping_is_a_user_error(content, sentence, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")) as raised:
        read_yaml(tmp_path / "mine.yaml", "", "an example")
    assert "mine.yaml" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa: 1", b"a: 1\r\n", b"---\na: 1\n...", b"a: 1 # \xc3\xa4"])
def test_yaml_with_marks_and_other_line_ends_is_read(content, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "mine.yaml", "", "an example") == {"a": 1}
