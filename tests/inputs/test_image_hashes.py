"""Current hashes of images: a file is read only if it has changed."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.inputs import file_stats
from cxrlt.inputs.image_hashes import image_hashes
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.table import add_file_column
from tiny import make_tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    """Return a source with three patients of two images in each split."""
    return make_tiny(tmp_path / "root", n_patients=3, n_folds=2)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the names of all files that are read."""
    names: list[str] = []
    whole = file_stats.read_file

    def noted(path: Path) -> bytes:
        names.append(path.name)
        return whole(path)

    monkeypatch.setattr(file_stats, "read_file", noted)
    return names


def table_of(source: ImageSource, split: str = "train") -> pd.DataFrame:
    return source.challenge.read(split, source.workspace.inputs_dir("csv"))


def hashes_of(source: ImageSource, split: str = "train") -> pd.Series | None:
    return image_hashes(source.challenge, source.workspace, split, table_of(source, split))


def on_disk(source: ImageSource, split: str = "train") -> dict[str, str]:
    files = add_file_column(source.challenge, table_of(source, split), source.workspace)["file"]
    return {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items() if file}


def file_of(source: ImageSource, image_id: str) -> Path:
    return source.workspace.images_dir("csv") / "pictures" / f"{image_id}.png"


def test_without_a_cache_nothing_is_known(source: ImageSource):
    assert hashes_of(source) is None


def test_without_the_images_nothing_is_known(source: ImageSource):
    source.load_all_splits(16)
    away = Workspace(source.workspace.root, images=source.workspace.root / "away")
    assert image_hashes(source.challenge, away, "train", table_of(source)) is None


def test_unchanged_images_are_known_without_reading_one(source: ImageSource, read: list[str]):
    source.load_all_splits(16)
    for split in ("train", "dev", "test"):
        assert hashes_of(source, split).to_dict() == on_disk(source, split)
    assert list(hashes_of(source).index) == list(table_of(source).index)
    assert read == []


def test_a_table_with_files_need_not_be_located(source: ImageSource):
    source.load_all_splits(16)
    table = add_file_column(source.challenge, table_of(source), source.workspace).drop(columns="path")
    assert image_hashes(source.challenge, source.workspace, "train", table).to_dict() == on_disk(source)


def test_an_image_that_no_cache_has_and_one_that_is_gone_are_not_known(source: ImageSource):
    source.load_split("dev", 16)
    assert hashes_of(source).isna().all()
    source.load_split("train", 16)
    file_of(source, "00001_pa").unlink()
    assert hashes_of(source).isna().sum() == 1
    assert hashes_of(source).dropna().to_dict() == on_disk(source)


def test_a_replaced_image_is_hashed_and_the_cache_still_takes_it_for_replaced(
    source: ImageSource, read: list[str]
):
    _, cache = source.load_split("train", 16)
    before = hashes_of(source)
    shutil.copy(file_of(source, "00002_pa"), file_of(source, "00001_pa"))
    now = hashes_of(source)
    assert now.to_dict() == on_disk(source) and (now != before).sum() == 1
    assert hashes_of(source).to_dict() == on_disk(source) and read == ["00001_pa.png"] * 2
    assert cache.hashes_of(["00001_pa"]).item() == before["00001_pa"]
    _, cache = source.load_split("train", 16)
    np.testing.assert_array_equal(cache["00001_pa"], cache["00002_pa"])
    assert cache.hashes_of(["00001_pa"]).item() == now["00001_pa"]


def test_a_file_that_was_only_touched_is_read_once(
    source: ImageSource, read: list[str], capsys: pytest.CaptureFixture[str]
):
    for size in (16, 8):
        source.load_split("train", size)
    before = hashes_of(source)
    capsys.readouterr()
    os.utime(file_of(source, "00001_pa"))
    for _ in range(2):
        pd.testing.assert_series_equal(hashes_of(source), before)
    assert read == ["00001_pa.png"]
    assert "csv train: 1 image files have changed" in capsys.readouterr().err
    for size in (16, 8):
        source.load_split("train", size)
    assert capsys.readouterr().err == ""


def test_an_unreadable_image_has_a_hash_too(source: ImageSource):
    file_of(source, "00001_pa").write_bytes(b"no image")
    source = ImageSource(source.challenge, source.workspace, quarantine=True)
    source.load_split("train", 16)
    before = hashes_of(source)
    assert before.to_dict() == on_disk(source)
    shutil.copy(file_of(source, "00002_pa"), file_of(source, "00001_pa"))
    assert hashes_of(source).to_dict() == on_disk(source) != before.to_dict()


def test_an_image_that_became_an_empty_file_has_another_hash(source: ImageSource):
    source.load_split("train", 16)
    file_of(source, "00001_pa").write_bytes(b"")
    assert hashes_of(source).to_dict() == on_disk(source)


def test_a_copy_of_the_images_elsewhere_is_another_data_set(source: ImageSource, tmp_path: Path):
    source.load_split("train", 16)
    shutil.copytree(source.workspace.images_dir("csv"), tmp_path / "copy")
    other = Workspace(source.workspace.root, images=tmp_path / "copy")
    assert image_hashes(source.challenge, other, "train", table_of(source)) is None


@pytest.fixture
def read_only(source: ImageSource) -> Iterator[ImageSource]:
    """Return the source with a train cache in a read-only root."""
    source.load_split("train", 16)
    os.utime(file_of(source, "00001_pa"))
    root = source.workspace.root
    if subprocess.run(["mount", "--bind", root, root], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
    yield source
    subprocess.run(["umount", "--lazy", root], check=True)


def test_a_cache_that_cannot_be_written_is_no_obstacle(read_only: ImageSource):
    assert hashes_of(read_only).to_dict() == on_disk(read_only)
