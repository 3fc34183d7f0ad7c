import hashlib
import pickle
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.inputs.cache import ImageCache, cache_path, open_cache
from cxrlt.inputs.cache_build import build_cache

IDS = ["a", "12", "NA", "b,1", "é"]


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    files = []
    for grey in range(len(IDS)):
        files.append(str(tmp_path / f"{grey}.png"))
        cv2.imwrite(files[-1], np.full((8, 8), 10 * grey, np.uint8))
    table = pd.DataFrame({"file": files}, index=pd.Index(IDS, name="image_id"))
    return build_cache(table, 8, tmp_path / "cache", "toy", "train", tmp_path, workers=1)


def test_ids_that_look_like_numbers_or_na_are_found(cache: ImageCache):
    assert list(open_cache(cache.directory).ids) == sorted(IDS)
    for grey, image_id in enumerate(IDS):
        assert cache[image_id].dtype == np.uint8
        np.testing.assert_array_equal(cache[image_id], np.full((8, 8), 10 * grey))


def test_rows_are_in_the_order_of_the_requested_ids(cache: ImageCache):
    rows = cache.rows_of(["é", "a", "a"])
    np.testing.assert_array_equal(cache.images[rows], [cache["é"], cache["a"], cache["a"]])


def test_unknown_ids_are_an_error_that_names_them(cache: ImageCache):
    with pytest.raises(UserError, match="zebra, yak"):
        cache.rows_of(["a", "zebra", "yak"])


def test_the_images_cannot_be_written_to(cache: ImageCache):
    with pytest.raises(ValueError, match="read-only"):
        cache["a"][0, 0] = 1


def test_a_cache_pickles_as_its_folder_even_after_reading(cache: ImageCache):
    assert cache["a"].shape == (8, 8)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled)["NA"], cache["NA"])


@pytest.fixture
def files(tmp_path: Path) -> pd.Series:
    ids = pd.Index(["a", "b"], name="image_id")
    return pd.Series([str(tmp_path / f"{image_id}.png") for image_id in ids], ids)


def test_the_key_depends_on_ids_in_any_order_and_size(tmp_path: Path, files: pd.Series):
    place = (tmp_path / "cache", "toy", "train", tmp_path)
    first = cache_path(files, 8, *place)
    assert first.name.startswith("toy-train-")
    assert first == cache_path(files[::-1], 8, *place)
    assert first != cache_path(files.iloc[:1], 8, *place)
    assert first != cache_path(files.rename({"b": "c"}), 8, *place)
    assert first != cache_path(files, 9, *place)
    assert first != cache_path(files, 8, *place, channels=3)


def test_the_key_depends_on_the_folder_of_the_files(tmp_path: Path, files: pd.Series):
    images, other, link = (tmp_path / name for name in ("images", "other", "link"))
    images.mkdir()
    link.symlink_to(images)

    def path_of(images_dir: Path, folder: str = "") -> Path:
        moved = files.map(lambda file: str(images_dir / folder / Path(file).name))
        return cache_path(moved, 8, tmp_path / "cache", "toy", "train", images_dir)

    assert path_of(images) == path_of(link)
    assert len({path_of(images), path_of(other), path_of(images, "a"), path_of(images, "b")}) == 4


def test_the_key_does_not_change_between_versions(tmp_path: Path):
    files = pd.Series(["/nowhere/a.png", "/nowhere/b.png"], ["a", "b"])
    assert cache_path(files, 8, tmp_path, "toy", "train", Path("/nowhere")).name == "toy-train-80fe36285cac"


def test_the_hash_of_an_image_is_that_of_its_file(cache: ImageCache, tmp_path: Path):
    expected = [hashlib.sha256((tmp_path / f"{grey}.png").read_bytes()).hexdigest() for grey in (1, 0)]
    assert cache.hashes_of(["12", "a"]).to_dict() == dict(zip(["12", "a"], expected, strict=True))
    with pytest.raises(UserError, match="zebra"):
        cache.hashes_of(["zebra"])


def test_a_missing_cache_names_the_command(tmp_path: Path):
    with pytest.raises(UserError, match="cxrlt cache"):
        open_cache(tmp_path / "absent")


def test_an_unfinished_cache_is_refused_by_readers(cache: ImageCache):
    sources = np.load(cache.directory / "sources.npy", mmap_mode="r+")
    sources[2] = 0
    sources.flush()
    with pytest.raises(UserError, match=r"lacks 1 of 5 images.*cxrlt cache toy --size 8"):
        open_cache(cache.directory)
