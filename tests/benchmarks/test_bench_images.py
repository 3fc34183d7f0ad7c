from pathlib import Path
from types import SimpleNamespace

import cv2
import joblib
import numpy as np
import pytest
import torch

from benchmarks import images
from benchmarks.setting import Setting
from cxrlt.inputs.augment import Transform

SMALL = {"LARGE": (1018, 1222), "CACHED": 256, "SEEN": 192, "BATCH": 4, "N_PICTURES": 3}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """The least of everything, on smaller pictures."""
    for name, value in SMALL.items():
        monkeypatch.setattr(images, name, value)
    return Setting(tmp_path, 1e-6)


def test_a_cache_is_built_right_and_by_two_processes_as_by_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    decoding, processes = images.cache_rows(setting)
    assert (decoding.target, processes.target) == (1.8, 1.85)
    for row in (decoding, processes):
        assert row.unit == "images/s" and row.wrong == "" and row.value > 0 and len(row.stage) <= 45
    assert processes.against.name == "one process"
    assert processes.limit.value == pytest.approx(2 * processes.against.value)


def test_a_machine_with_one_core_says_what_it_does_not_measure(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    *_, processes = images.cache_rows(setting)
    assert "not measured" in processes.note and processes.reached is None


def test_a_cache_of_other_pictures_is_reported(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    black = np.zeros((99, 256, 256), np.uint8)
    monkeypatch.setattr(images, "_build", lambda table, folder, size, n=1: SimpleNamespace(images=black + n))
    decoding, processes = images.cache_rows(setting)
    assert "greys" in decoding.wrong and not decoding.reached
    assert "differ" in processes.wrong and not processes.reached


def test_the_loader_shows_the_pictures_that_torchvision_shows(setting: Setting):
    (row,) = images.loader_rows(setting)
    assert row.unit == "images/s" and row.target == 12 and row.wrong == "" and len(row.stage) <= 45
    assert 0 < row.value < 1e6 and "192 px from 256 px" in row.stage


def test_a_loader_of_other_pictures_is_reported(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    right = Transform.place
    monkeypatch.setattr(Transform, "place", lambda self, *what: right(self, *what)[::-1].copy())
    (row,) = images.loader_rows(setting)
    assert "greys" in row.wrong and not row.reached


def test_the_alternative_gives_what_training_scripts_train_on(setting: Setting):
    files = images._radiographs(setting.folder / "files", (256, 256))
    image, target = images.JpegFiles([str(file) for file in files])[0]
    assert (
        image.shape == (3, 192, 192) and image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
    )
    assert target.shape == (1,)


def test_growth_is_of_four_sizes_up_to_that_of_the_challenge(setting: Setting):
    found = images.cache_growth(setting)
    assert found.sizes == (100, 200, 400, 800) and min(found.seconds) > 0


def test_threads_are_left_as_they_were(setting: Setting):
    before = torch.get_num_threads(), cv2.getNumThreads()
    list(images.loader_rows(setting))
    assert before == (torch.get_num_threads(), cv2.getNumThreads())


def test_a_large_picture_weighs_as_much_as_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "N_PICTURES", 1)
    (file,) = images._radiographs(tmp_path / "large", images.LARGE)
    assert 1.5e6 < file.stat().st_size < 2.5e6
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape == (3056, 2544)
