from pathlib import Path
from types import SimpleNamespace

import cv2
import joblib
import numpy as np
import pytest
import torch

from benchmarks import images
from benchmarks.config import BenchmarkConfig
from cxrlt.inputs.augment import Transform

SMALL = {"LARGE_SIZE": (1018, 1222), "CACHE_SIZE": 256, "INPUT_SIZE": 192, "BATCH_SIZE": 4, "N_FILES": 3}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkConfig:
    """Minimal sizes and small images."""
    for name, value in SMALL.items():
        monkeypatch.setattr(images, name, value)
    return BenchmarkConfig(tmp_path, 1e-6)


def test_a_cache_is_built_right_and_by_two_processes_as_by_one(
    config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    decoding, processes = images.measure_cache(config)
    assert (decoding.target, processes.target) == (1.8, 1.85)
    for row in (decoding, processes):
        assert row.unit == "images/s" and row.error == "" and row.value > 0 and len(row.stage) <= 45
    assert processes.baseline.name == "one process"
    assert processes.limit.value == pytest.approx(2 * processes.baseline.value)


def test_a_machine_with_one_core_says_what_it_does_not_measure(
    config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    *_, processes = images.measure_cache(config)
    assert "not measured" in processes.note and processes.meets_target is None


def test_a_cache_of_other_images_is_reported(config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    black = np.zeros((99, 256, 256), np.uint8)
    monkeypatch.setattr(images, "_build", lambda table, folder, size, n=1: SimpleNamespace(images=black + n))
    decoding, processes = images.measure_cache(config)
    assert "grey levels" in decoding.error and not decoding.meets_target
    assert "differ" in processes.error and not processes.meets_target


def test_the_loader_returns_the_images_of_torchvision(config: BenchmarkConfig):
    (row,) = images.measure_loader(config)
    assert row.unit == "images/s" and row.target == 12 and row.error == "" and len(row.stage) <= 45
    assert 0 < row.value < 1e6 and "192 px from 256 px" in row.stage


def test_a_loader_of_other_images_is_reported(config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch):
    right = Transform.warp
    monkeypatch.setattr(Transform, "warp", lambda self, *what: right(self, *what)[::-1].copy())
    (row,) = images.measure_loader(config)
    assert "grey levels" in row.error and not row.meets_target


def test_the_alternative_gives_what_training_scripts_train_on(config: BenchmarkConfig):
    files = images._radiographs(config.folder / "files", (256, 256))
    image, target = images.JpegFiles([str(file) for file in files])[0]
    assert (
        image.shape == (3, 192, 192) and image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
    )
    assert target.shape == (1,)


def test_growth_is_of_four_sizes_up_to_that_of_the_challenge(config: BenchmarkConfig):
    results = images.measure_cache_scaling(config)
    assert results.sizes == (100, 200, 400, 800) and min(results.seconds) > 0


def test_threads_are_left_as_they_were(config: BenchmarkConfig):
    before = torch.get_num_threads(), cv2.getNumThreads()
    list(images.measure_loader(config))
    assert before == (torch.get_num_threads(), cv2.getNumThreads())


def test_a_large_image_file_is_as_large_as_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "N_FILES", 1)
    (file,) = images._radiographs(tmp_path / "large", images.LARGE_SIZE)
    assert 1.5e6 < file.stat().st_size < 2.5e6
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape == (3056, 2544)
