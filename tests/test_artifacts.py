import errno
import os
from pathlib import Path

import pytest

from cxrlt.artifacts import expand_home, read_json
from cxrlt.errors import UserError
from cxrlt.system.atomic_files import TEMPORARY, atomic_path, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_being_written_is_known_by_its_name(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert list(tmp_path.glob(TEMPORARY)) == [temporary]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EROFS, "--root"),
        (errno.EFBIG, "ulimit"),
        (errno.EBADF, "Fix the cause"),
    ],
)
def test_a_disk_that_does_not_take_a_file_is_a_sentence_and_leaves_nothing(tmp_path, number, advice):
    sentence = f"a.txt cannot be written: .*{advice}"
    with pytest.raises(UserError, match=sentence), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff{}", b"[" * 100_000])
@pytest.mark.parametrize("made_by", ["cxrlt folds demo", "cxrlt folds demo --force"])
def test_json_that_is_no_object_is_a_sentence_with_what_makes_it_again(tmp_path, text, made_by):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=r"a.json .+ Renew it with: cxrlt folds demo --force$"):
        read_json(tmp_path / "a.json", made_by)


@pytest.mark.parametrize(
    ("given", "meant"), [("~", "/home/me"), ("~/runs", "/home/me/runs"), ("a/~/b", "a/~/b"), ("x~", "x~")]
)
def test_a_leading_tilde_is_the_home_directory_as_in_a_shell(monkeypatch, given, meant):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(Path(given)) == Path(meant)


def test_the_home_directory_of_nobody_is_refused_by_name():
    with pytest.raises(UserError, match=r"^~no-such-user-here/runs: .*no-such-user-here.*whole path"):
        expand_home(Path("~no-such-user-here/runs"))
