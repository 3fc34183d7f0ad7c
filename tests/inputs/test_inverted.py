import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.check import check
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.inverted import MIN_IMAGES, inverted_warning, is_inverted
from cxrlt.phantom.demo import make_demo

pytestmark = pytest.mark.slow

NIH = Path(os.environ.get("CXRLT_TEST_DATA", "/nonexistent")) / "nih" / "images"
INVERTED_AT_NIH = "00017999_000"


def cache_of(files: list[Path], folder: Path, channels: int = 1) -> ImageCache:
    index = pd.Index([file.stem for file in files], name="image_id")
    table = pd.DataFrame({"file": [str(file) for file in files]}, index)
    place = (64, folder / "cache", "toy", "train", folder)
    return build_cache(table, *place, channels=channels, workers=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a demo with about 60 radiographs, frontal and lateral."""
    root = tmp_path_factory.mktemp("demo")
    make_demo(root / "inputs" / "demo", 24)
    return root


def image_files(root: Path) -> list[Path]:
    return sorted((root / "inputs" / "demo").rglob("*.jpg"))


@pytest.mark.parametrize("channels", [1, 3])
def test_demo_images_look_inverted_only_after_inversion(demo: Path, tmp_path: Path, channels: int):
    thumbs = cache_of(image_files(demo), tmp_path, channels).thumbs
    assert len(thumbs) >= 40 and thumbs.shape[1:] == (16, 16)
    assert not is_inverted(thumbs).any()
    thumbs[::7] = 255 - thumbs[::7]
    assert np.flatnonzero(is_inverted(thumbs)).tolist() == list(range(0, len(thumbs), 7))


def test_few_or_very_different_images_are_not_reported(demo: Path, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (500, 2, 2), dtype=np.uint8)
    coarse = noise.repeat(8, axis=1).repeat(8, axis=2)
    assert not is_inverted(coarse).any()
    few = cache_of(image_files(demo)[: MIN_IMAGES - 1], tmp_path).thumbs
    few[0] = 255 - few[0]
    assert not is_inverted(few).any()


def test_the_warning_gives_count_and_names(demo: Path, tmp_path: Path):
    cache = cache_of(image_files(demo), tmp_path)
    thumbs = cache.thumbs
    assert inverted_warning("csv", "train", thumbs, cache.ids) == ""
    thumbs[3] = 255 - thumbs[3]
    said = inverted_warning("csv", "train", thumbs, cache.ids)
    assert f"csv train: 1 of {len(thumbs)} images look inverted" in said and cache.ids[3] in said
    assert "MONOCHROME1" in said


def test_cache_and_check_report_an_inverted_image(demo: Path, capsys: pytest.CaptureFixture[str]):
    workspace = Workspace(demo)
    challenge = get_challenge("demo")
    source = ImageSource(challenge, workspace)
    table, _ = source.load_split("train", 64)
    source.load_all_splits(64)
    assert "inverted" not in capsys.readouterr().err + check(challenge, workspace)
    path = next(path for path in image_files(demo) if path.stem == table.index[2])
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    source.load_all_splits(64)
    source.load_split("train", 32)  # another cache of the same images
    said, report = capsys.readouterr().err, check(challenge, workspace)
    for text in (said, report):
        assert text.count("images look inverted") == 1 and f"air bright): {table.index[2]}." in text


@pytest.mark.skipif(not NIH.is_dir(), reason="needs real radiographs in $CXRLT_TEST_DATA")
def test_inverted_ones_are_found_among_200_real_radiographs(tmp_path: Path):
    files = [file for file in sorted(NIH.glob("*.png")) if file.stem != INVERTED_AT_NIH][::8][:200]
    cache = cache_of(files, tmp_path)
    thumbs = cache.thumbs
    assert not is_inverted(thumbs).any()
    thumbs[[5, 50, 150]] = 255 - thumbs[[5, 50, 150]]
    assert np.flatnonzero(is_inverted(thumbs)).tolist() == [5, 50, 150]
