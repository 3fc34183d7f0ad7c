import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.inputs import cache_rows
from cxrlt.inputs.cache import ImageCache, cache_path, open_cache, read_quarantine
from cxrlt.inputs.cache_build import DECODE_CHUNK, build_cache
from cxrlt.inputs.decode import decode, read_image
from cxrlt.system.locks import lock_folder

pytestmark = pytest.mark.slow

SIZE = 16


def image(seed: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def write_images(folder: Path, n: int) -> pd.DataFrame:
    """Write n different images and return their table (image_id, file)."""
    folder.mkdir()
    files = [folder / f"{row:04d}.{'jpg' if row % 2 else 'png'}" for row in range(n)]
    for row, file in enumerate(files):
        assert cv2.imwrite(str(file), image(row))
    ids = pd.Index([file.stem for file in files], name="image_id")
    return pd.DataFrame({"file": [str(file) for file in files]}, index=ids)


def truncate(file: str) -> None:
    data = Path(file).read_bytes()
    Path(file).write_bytes(data[: len(data) // 2])


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    return write_images(tmp_path / "images", 12)


def test_every_image_is_cached_as_it_is_decoded(tmp_path: Path, table: pd.DataFrame):
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert list(cache.ids) == list(table.index) and cache.quarantined == ()
    for image_id, file in table["file"].items():
        np.testing.assert_array_equal(cache[image_id], decode(Path(file), SIZE))


def test_a_cache_of_three_channels_lies_beside_the_grey_one(tmp_path: Path, table: pd.DataFrame):
    blue = np.zeros((20, 20, 3), np.uint8)
    blue[..., 0] = 200
    cv2.imwrite(table["file"].iloc[4], blue)
    grey = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    colour = build_cache(
        table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", channels=3, workers=2
    )
    assert colour.images.shape == (12, SIZE, SIZE, 3) and grey.images.shape == (12, SIZE, SIZE)
    assert (colour["0004"] == (0, 0, 200)).all() and grey["0004"].max() < 60
    for image_id, file in table["file"].items():
        np.testing.assert_array_equal(colour[image_id], decode(Path(file), SIZE, channels=3))


def test_two_processes_write_what_one_writes(tmp_path: Path):
    table = write_images(tmp_path / "images", 2 * DECODE_CHUNK + 1)
    one = build_cache(table, SIZE, tmp_path / "one", "toy", "train", tmp_path / "images", workers=1)
    two = build_cache(table, SIZE, tmp_path / "two", "toy", "train", tmp_path / "images", workers=2)
    np.testing.assert_array_equal(one.images, two.images)


def test_disk_and_time_are_printed_first_and_a_finished_cache_is_silent(
    tmp_path: Path, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
):
    build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    said = capfd.readouterr().err
    assert "toy train: 12 of 12 images" in said and " GB" in said and "about 0 s" in said
    assert "image/s" not in said  # no progress bar off a terminal
    build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert capfd.readouterr().err == ""


def test_every_file_is_read_once_also_for_the_estimate(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    read = []

    def noted(path: Path) -> bytes:
        read.append(str(path))
        return read_image(path)

    truncate(table["file"].iloc[0])  # which is among those that the estimate is made from
    monkeypatch.setattr(cache_rows, "read_image", noted)
    build_cache(
        table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1, quarantine=True
    )
    assert sorted(read) == sorted(table["file"])


def test_only_pending_images_need_disk_space(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    def build(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)

    for file in table["file"].iloc[:3]:
        truncate(file)
    with pytest.raises(UserError, match="GB more"):
        build(free=12 * SIZE**2 - 1)
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        build(free=12 * SIZE**2)
    for row, file in enumerate(table["file"].iloc[:3]):
        cv2.imwrite(file, image(row))
    with pytest.raises(UserError, match="GB more"):
        build(free=3 * SIZE**2 - 1)
    build(free=3 * SIZE**2)


def test_the_processes_that_decode_import_no_pandas():
    code = "import sys, cxrlt.inputs.cache_rows; print('pandas' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert out.stdout.strip() == "False"


def test_a_finished_cache_is_not_written_again(tmp_path: Path, table: pd.DataFrame):
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    before = {file: file.stat().st_mtime_ns for file in cache.directory.iterdir()}
    build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert before == {file: file.stat().st_mtime_ns for file in cache.directory.iterdir()}


def test_the_same_images_in_another_order_are_the_same_cache(tmp_path: Path, table: pd.DataFrame):
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    again = build_cache(table[::-1], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert again.directory == cache.directory
    for image_id, file in table["file"].items():
        np.testing.assert_array_equal(again[image_id], decode(Path(file), SIZE))


def test_a_replaced_image_is_decoded_again_and_the_others_are_not(tmp_path: Path, table: pd.DataFrame):
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    images = np.load(cache.directory / "images.npy", mmap_mode="r+")
    images[5] = 7  # so that decoding row 5 again would show
    images.flush()
    cv2.imwrite(table["file"].iloc[2], image(99, side=30))
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    np.testing.assert_array_equal(cache["0002"], decode(Path(table["file"].iloc[2]), SIZE))
    assert (cache["0005"] == 7).all()


def mark_pixels(cache: ImageCache) -> None:
    """Set every cached pixel to 7, so that an image that is decoded again is visible."""
    images = np.load(cache.directory / "images.npy", mmap_mode="r+")
    images[:] = 7
    images.flush()


def test_an_image_replaced_by_one_of_the_same_length_and_time_is_decoded_again(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    files = [folder / f"{row}.png" for row in range(3)]
    for row, file in enumerate(files):
        file.write_bytes(plain(row))
    table = pd.DataFrame({"file": map(str, files)}, index=pd.Index(["0", "1", "2"], name="image_id"))
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", folder, workers=1)
    before = files[1].stat()
    mark_pixels(cache)
    files[1].write_bytes(plain(200))
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = files[1].stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", folder, workers=1)
    np.testing.assert_array_equal(cache["1"], decode(files[1], SIZE))
    assert (cache["0"] == 7).all() and (cache["2"] == 7).all()
    assert cache.hashes_of(["1"]).item() == hashlib.sha256(files[1].read_bytes()).hexdigest()


def plain(grey: int) -> bytes:
    """Write a PNG whose length does not depend on the grey level."""
    data = cv2.imencode(".png", np.full((20, 20), grey, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
    return data.tobytes()


def test_a_file_that_was_only_touched_is_hashed_again_once_and_not_decoded(
    tmp_path: Path, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
):
    build = partial(build_cache, table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    mark_pixels(build(workers=1))
    hashes = np.load(build().directory / "hashes.npy")
    for file in table["file"].iloc[:5]:
        os.utime(file, ns=(10**18, 10**18))
    copy = Path(table["file"].iloc[5])  # another inode
    shutil.copy2(copy, copy.with_suffix(".new"))
    copy.with_suffix(".new").replace(copy)
    capfd.readouterr()
    cache = build(workers=1)
    said = capfd.readouterr().err
    assert "6 of 12 image files have changed: hashing them again" in said and "to decode" not in said
    assert (cache.images == 7).all()
    np.testing.assert_array_equal(hashes, cache.hashes)
    build()
    assert capfd.readouterr().err == ""


def test_a_build_killed_while_hashing_is_not_trusted(tmp_path: Path, table: pd.DataFrame):
    """A partly written stat equals neither the stat of the file nor zeros."""
    build = partial(build_cache, table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    cache = build(workers=1)
    sources = np.load(cache.directory / "sources.npy", mmap_mode="r+")
    sources[2, 2:] = 0  # half of it was put in place
    sources[3, :2] = 0  # half of it was taken away
    sources.flush()
    cv2.imwrite(table["file"].iloc[2], image(99))
    cache = build(workers=1)
    for image_id, file in table["file"].items():
        np.testing.assert_array_equal(cache[image_id], decode(Path(file), SIZE))


def test_a_replaced_image_that_cannot_be_read_loses_its_pixels(tmp_path: Path, table: pd.DataFrame):
    build = partial(build_cache, table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    build(workers=1)
    truncate(table["file"].iloc[3])
    with pytest.raises(UserError, match="1 of 12 images cannot be read"):
        build(workers=1)
    assert build(workers=1, quarantine=True).quarantined == ("0003",)


def test_data_sets_with_the_same_ids_share_no_image(tmp_path: Path):
    caches = {}
    for name, grey in (("one", 10), ("other", 200)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.png").write_bytes(plain(grey))
        table = pd.DataFrame({"file": [str(folder / "a.png")]}, index=pd.Index(["a"], name="image_id"))
        caches[grey] = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", folder, workers=1)
    assert all((cache["a"] == grey).all() for grey, cache in caches.items())


def test_one_more_row_decodes_one_image(
    tmp_path: Path, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
):
    places = (SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    truncate(table["file"].iloc[2])
    few = build_cache(table.iloc[:-1], *places, workers=1, quarantine=True)
    mark_pixels(few)
    cv2.imwrite(table["file"].iloc[4], image(99, side=30))  # which the other cache has not met
    capfd.readouterr()
    many = build_cache(table, *places, workers=1, quarantine=True)
    said = capfd.readouterr().err
    assert f"copying 9 of 12 images from {few.directory}" in said and "3 of 12 images to decode" in said
    assert many.quarantined == ("0002",)
    copied = [image_id for image_id in few.ids if image_id != "0004"]
    assert all((many[image_id] == 7).all() for image_id in copied)
    for image_id in ("0004", "0011"):
        np.testing.assert_array_equal(many[image_id], decode(Path(table.loc[image_id, "file"]), SIZE))
    fresh = build_cache(table, SIZE, tmp_path / "fresh", *places[2:], workers=1, quarantine=True)
    np.testing.assert_array_equal(many.thumbs, fresh.thumbs)
    for image_id, sha256 in many.hashes_of(many.ids).items():
        assert sha256 == hashlib.sha256(Path(table.loc[image_id, "file"]).read_bytes()).hexdigest()


def test_nothing_is_copied_from_a_cache_of_another_size_or_a_damaged_one(
    tmp_path: Path, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
):
    def build(n: int, size: int = SIZE) -> ImageCache:
        place = (tmp_path / "cache", "toy", "train", tmp_path / "images")
        return build_cache(table.iloc[:n], size, *place, workers=1)

    build(12, size=8)
    (build(11).directory / "hashes.npy").unlink()
    cache = build(12)
    assert "are copied" not in capfd.readouterr().err
    for image_id, file in table["file"].items():
        np.testing.assert_array_equal(cache[image_id], decode(Path(file), SIZE))


def test_the_image_folder_is_only_read(tmp_path: Path, table: pd.DataFrame):
    def state() -> dict[Path, tuple[str, int]]:
        return {
            file: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
            for file in (tmp_path / "images").rglob("*")
        }

    truncate(table["file"].iloc[3])
    folder_mode = (tmp_path / "images").stat().st_mode
    before = state()
    (tmp_path / "images").chmod(0o555)
    try:
        build_cache(
            table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1, quarantine=True
        )
    finally:
        (tmp_path / "images").chmod(folder_mode)
    assert state() == before


def test_unreadable_images_are_an_error_that_names_ten_and_counts_all(tmp_path: Path, table: pd.DataFrame):
    for file in table["file"].iloc[:11]:
        truncate(file)
    with pytest.raises(UserError) as caught:
        build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    sentence = str(caught.value)
    assert "11 of 12 images cannot be read" in sentence and "11 in all" in sentence
    assert all(file in sentence for file in table["file"].iloc[:10])
    assert table["file"].iloc[10] not in sentence
    assert "ends early" in sentence and f"cxrlt cache toy --size {SIZE} --quarantine" in sentence


def test_an_unreadable_image_leaves_no_cache_that_can_be_opened(tmp_path: Path, table: pd.DataFrame):
    truncate(table["file"].iloc[3])
    with pytest.raises(UserError, match="cannot be read"):
        build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    with pytest.raises(UserError, match="lacks 1 of 12"):
        open_cache(cache_path(table["file"], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images"))


def test_after_replacing_an_unreadable_image_only_that_one_is_decoded(
    tmp_path: Path, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
):
    truncate(table["file"].iloc[3])
    with pytest.raises(UserError, match="cannot be read"):
        build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    cv2.imwrite(table["file"].iloc[3], image(3))
    capfd.readouterr()
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert "1 of 12 images to decode" in capfd.readouterr().err
    np.testing.assert_array_equal(cache["0003"], decode(Path(table["file"].iloc[3]), SIZE))


def test_quarantine_excludes_and_records_unreadable_images(tmp_path: Path, table: pd.DataFrame):
    truncate(table["file"].iloc[3])
    Path(table["file"].iloc[6]).write_bytes(b"")
    Path(table["file"].iloc[8]).unlink()
    cache = build_cache(
        table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1, quarantine=True
    )
    assert cache.quarantined == ("0003", "0006", "0008")
    assert list(cache.ids) == [image_id for image_id in table.index if image_id not in cache.quarantined]
    record = pd.read_csv(cache.directory / "quarantine.csv", dtype=str)
    assert list(record["image_id"]) == list(cache.quarantined)
    assert list(record["path"]) == [table.loc[image_id, "file"] for image_id in cache.quarantined]
    assert record["reason"].str.len().min() > 5
    hashes = read_quarantine(cache.directory)["sha256"]
    assert hashes["0003"] == hashlib.sha256(Path(table.loc["0003", "file"]).read_bytes()).hexdigest()
    assert hashes["0008"] == ""
    with pytest.raises(UserError, match=r"quarantine\.csv.*0003"):
        cache["0003"]


def test_quarantine_lasts_until_the_file_changes(tmp_path: Path, table: pd.DataFrame):
    truncate(table["file"].iloc[3])
    truncate(table["file"].iloc[4])
    build_cache(
        table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1, quarantine=True
    )
    assert build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images").quarantined == (
        "0003",
        "0004",
    )
    cv2.imwrite(table["file"].iloc[3], image(3))
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert cache.quarantined == ("0004",)
    np.testing.assert_array_equal(cache["0003"], decode(Path(table["file"].iloc[3]), SIZE))
    assert list(pd.read_csv(cache.directory / "quarantine.csv", dtype=str)["image_id"]) == ["0004"]


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path: Path, table: pd.DataFrame):
    size = 10**8  # ten petabytes an image
    with pytest.raises(UserError, match=r"GB more.*--cache-dir"):
        build_cache(table, size, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    assert not list(tmp_path.rglob("images.npy"))


def test_a_read_only_cache_folder_is_a_user_error(tmp_path: Path, table: pd.DataFrame):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="--cache-dir"):
        build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)


def test_no_images_is_a_user_error(tmp_path: Path, table: pd.DataFrame):
    with pytest.raises(UserError, match="no images"):
        build_cache(table.iloc[:0], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")


BUILD = """
import sys
from pathlib import Path
import pandas as pd
from cxrlt.inputs.cache_build import build_cache
table = pd.read_csv(sys.argv[1], dtype=str).set_index("image_id")
cache = build_cache(table, int(sys.argv[2]), Path(sys.argv[3]), "toy", "train", Path(sys.argv[4]), workers=1)
print(len(cache.ids))
"""


def start_build(tmp_path: Path, table: pd.DataFrame) -> subprocess.Popen:
    table.to_csv(tmp_path / "table.csv")
    places = [str(tmp_path / "cache"), str(tmp_path / "images")]
    command = [sys.executable, "-c", BUILD, str(tmp_path / "table.csv"), str(SIZE), *places]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_killed_build_resumes_and_ignores_partial_rows(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for row in range(4 * DECODE_CHUNK):  # large images, so that there is time to kill
        source = folder / f"{row % 4:04d}.png"
        if row < 4:
            cv2.imwrite(str(source), image(row, side=900))
        else:
            (folder / f"{row:04d}.png").hardlink_to(source)
    files = sorted(folder.glob("*.png"))
    ids = pd.Index([file.stem for file in files], name="image_id")
    table = pd.DataFrame({"file": [str(file) for file in files]}, index=ids)
    directory = cache_path(table["file"], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")

    build = start_build(tmp_path, table)
    wait_for(lambda: (directory / "meta.json").is_file() and np.load(directory / "sources.npy").any())
    build.send_signal(signal.SIGKILL)
    build.communicate()
    done = np.load(directory / "sources.npy")[:, 0] != 0
    assert 0 < done.sum() < len(table)
    images = np.load(directory / "images.npy", mmap_mode="r+")
    images[~done] = 3  # whatever the killed process left there
    images[np.flatnonzero(done)[0]] = 7  # decoding a finished row again would show
    images.flush()

    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    expected = np.stack([decode(folder / f"{row % 4:04d}.png", SIZE) for row in range(len(table))])
    expected[np.flatnonzero(done)[0]] = 7
    np.testing.assert_array_equal(cache.images, expected)


def test_a_folder_with_incomplete_arrays_is_built_again(tmp_path: Path, table: pd.DataFrame):
    directory = cache_path(table["file"], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    directory.mkdir(parents=True)
    (directory / "images.npy").write_bytes(b"\x93NUMPY")
    cache = build_cache(table, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images", workers=1)
    np.testing.assert_array_equal(cache["0000"], decode(Path(table["file"].iloc[0]), SIZE))


def test_a_second_builder_waits_for_the_first(tmp_path: Path, table: pd.DataFrame):
    directory = cache_path(table["file"], SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    directory.mkdir(parents=True)
    with lock_folder(directory):
        build = start_build(tmp_path, table)
        assert "Waiting until it ends" in build.stderr.readline()
        assert not (directory / "meta.json").exists()
    out, _ = build.communicate(timeout=60)
    assert build.returncode == 0 and out.strip() == "12"
