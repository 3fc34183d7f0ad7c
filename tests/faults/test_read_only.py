import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Harness
from tiny_stages import STAGES, after, contents

pytestmark = pytest.mark.slow

ALWAYS_WRITING = ("predict-oof", "calibrate", "submit")
"""By --force, or to compare what they make with what is there."""


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A folder to bind another one to, read-only."""
    place = tmp_path / "bound"
    place.mkdir()
    yield place
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


@pytest.fixture
def images(found: Harness) -> Iterator[Path]:
    """The pictures, which can only be read."""
    bind_read_only(found.images, found.images)
    yield found.images
    subprocess.run(["umount", "--lazy", found.images], check=True)


def bind_read_only(folder: Path, place: Path) -> None:
    if subprocess.run(["mount", "--bind", folder, place], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_may_not_write_says_so_and_leaves_all_as_it_was(
    found: Harness, bound: Path, stage: str
) -> None:
    found.put_back(stage)
    bind_read_only(found.root, bound)
    args = [str(word).replace(str(found.root), str(bound)) for word in found.command(stage)]
    ended = found.server.run(args)
    assert ended.is_sentence, ended.output
    assert contents(found.root) == contents(found.before[stage])


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ALWAYS_WRITING])
def test_a_finished_stage_needs_no_right_to_write(found: Harness, bound: Path, stage: str) -> None:
    bind_read_only(after(found.before, stage), bound)
    args = [str(word).replace(str(found.root), str(bound)) for word in found.command(stage)]
    ended = found.server.run(args)
    assert ended.code == 0, ended.output


def test_inputs_need_no_right_to_write_where_the_cache_lies_elsewhere(
    found: Harness, bound: Path, images: Path, tmp_path: Path
) -> None:
    bind_read_only(found.before["cache"], bound)
    places = {"root": tmp_path / "root", "inputs": bound / "inputs" / "csv", "images": images}
    places["cache-dir"] = tmp_path / "cache"
    flags = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    args = ["cache", "csv", "--size", "32", *flags]
    ended = found.server.run(args)
    assert ended.code == 0, ended.output
    done = after(found.before, "cache") / "inputs" / "cache"
    assert contents(tmp_path / "cache") == contents(done)


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("demo", "inputs/demo"),
        ("folds", "folds"),
        ("cache", "inputs/cache"),
        ("train-plain", "folds/csv/plain"),
        ("ensemble", "folds/csv/ensemble"),
        ("submit", "submissions/csv"),
    ],
)
def test_a_file_where_a_folder_should_be_is_a_sentence(found: Harness, stage: str, place: str) -> None:
    found.put_back(stage)
    path = found.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    ended = found.run(stage)
    assert ended.is_sentence, ended.output
    assert str(path) in ended.output
    assert path.read_text() == "in the way"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_whatever_the_disk_refuses_with_is_a_sentence(found: Harness, number: int) -> None:
    wrong, (ended,) = found.wrong_after("submit", [{"at": 5, "fail": number}])
    assert not wrong
    assert ended.code == 2
