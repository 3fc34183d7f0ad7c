import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Harness
from tiny_stages import STAGES, file_hashes, root_after

pytestmark = pytest.mark.slow

ALWAYS_WRITING = ("predict-oof", "calibrate", "submit")
"""Stages that write even if they are finished: because of --force, or to compare their result."""


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A folder to bind another one to, read-only."""
    place = tmp_path / "bound"
    place.mkdir()
    yield place
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


@pytest.fixture
def images(harness: Harness) -> Iterator[Path]:
    """The images folder, read-only."""
    bind_read_only(harness.images, harness.images)
    yield harness.images
    subprocess.run(["umount", "--lazy", harness.images], check=True)


def bind_read_only(folder: Path, place: Path) -> None:
    if subprocess.run(["mount", "--bind", folder, place], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_disk_is_a_user_error_and_changes_nothing(
    harness: Harness, bound: Path, stage: str
) -> None:
    harness.restore(stage)
    bind_read_only(harness.root, bound)
    args = [str(word).replace(str(harness.root), str(bound)) for word in harness.command(stage)]
    ended = harness.server.run(args)
    assert ended.is_user_error, ended.output
    assert file_hashes(harness.root) == file_hashes(harness.before[stage])


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ALWAYS_WRITING])
def test_a_finished_stage_runs_on_a_read_only_disk(harness: Harness, bound: Path, stage: str) -> None:
    bind_read_only(root_after(harness.before, stage), bound)
    args = [str(word).replace(str(harness.root), str(bound)) for word in harness.command(stage)]
    ended = harness.server.run(args)
    assert ended.code == 0, ended.output


def test_inputs_can_be_read_only_if_the_cache_is_elsewhere(
    harness: Harness, bound: Path, images: Path, tmp_path: Path
) -> None:
    bind_read_only(harness.before["cache"], bound)
    places = {"root": tmp_path / "root", "inputs": bound / "inputs" / "csv", "images": images}
    places["cache-dir"] = tmp_path / "cache"
    flags = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    args = ["cache", "csv", "--size", "32", *flags]
    ended = harness.server.run(args)
    assert ended.code == 0, ended.output
    done = root_after(harness.before, "cache") / "inputs" / "cache"
    assert file_hashes(tmp_path / "cache") == file_hashes(done)


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
def test_a_file_in_the_place_of_a_folder_is_a_user_error(harness: Harness, stage: str, place: str) -> None:
    harness.restore(stage)
    path = harness.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    ended = harness.run(stage)
    assert ended.is_user_error, ended.output
    assert str(path) in ended.output
    assert path.read_text() == "in the way"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_every_disk_error_is_a_user_error(harness: Harness, number: int) -> None:
    problems, (ended,) = harness.problems_after("submit", [{"at": 5, "fail": number}])
    assert not problems
    assert ended.code == 2
