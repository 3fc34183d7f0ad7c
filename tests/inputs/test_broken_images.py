"""Broken, unusual and hostile image files: each gives an image, or a reason why it cannot be read."""

import io
import os
import random
import re
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import (
    GREY_PNG,
    INFLATED,
    INVALID_FILES,
    JPEG,
    VALID_FILES,
    chunk,
    opencv,
    pillow,
    png,
    radiograph,
    with_frame,
)
from PIL import Image

from cxrlt.errors import UserError
from cxrlt.inputs import headers
from cxrlt.inputs.cache import read_quarantine
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.decode import UnreadableImageError, decode
from cxrlt.inputs.headers import MAX_BYTES, MAX_PIXELS, MAX_SCANS

pytestmark = pytest.mark.slow

SIZE = 32
MEMORY_BOUND = 1300
"""Limit of a process in MB, Python and its libraries included."""


def outcome(folder: Path, data: bytes, channels: int = 1) -> np.ndarray | str:
    """Return the image, or the reason why it cannot be read."""
    path = folder / "image.jpg"
    path.write_bytes(data)
    try:
        image = decode(path, SIZE, channels)
    except UnreadableImageError as error:
        assert error.path == path
        assert 0 < len(error.reason) < 200 and "\n" not in error.reason
        return error.reason
    assert image.dtype == np.uint8
    assert image.shape == ((SIZE, SIZE) if channels == 1 else (SIZE, SIZE, 3))
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", VALID_FILES)
def test_a_valid_file_is_read_without_output_under_any_name(
    tmp_path: Path, capfd: pytest.CaptureFixture, name: str, channels: int
):
    assert isinstance(outcome(tmp_path, VALID_FILES[name], channels), np.ndarray)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in VALID_FILES if "sixteen" not in name])
def test_a_valid_file_is_read_as_by_another_library(tmp_path: Path, name: str):
    with Image.open(io.BytesIO(VALID_FILES[name])) as pil_image:
        theirs = np.asarray(pil_image.convert("RGBA").convert("RGB"))
    theirs = cv2.resize(theirs, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    difference = np.abs(outcome(tmp_path, VALID_FILES[name], channels=3).astype(int) - theirs)
    assert difference.mean() < 2 and difference.max() < 12


@pytest.mark.parametrize("name", VALID_FILES)
def test_a_truncated_file_is_refused_unless_complete(tmp_path: Path, capfd: pytest.CaptureFixture, name: str):
    data, whole = VALID_FILES[name], outcome(tmp_path, VALID_FILES[name])
    step = min(1024, len(data) // 20)
    for length in [*range(0, len(data), step), *range(len(data) - 20, len(data))]:
        image = outcome(tmp_path, data[:length])
        assert image in ("the file is empty", "the PNG ends early", "the JPEG ends early") or (
            np.array_equal(image, whole)
        ), length
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in VALID_FILES if name.endswith(".jpg")])
@pytest.mark.parametrize("tail", [bytes(700), b"\xff\xd9", b"garbage \xff\xd9", JPEG])
def test_a_truncated_and_padded_jpeg_is_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture, name: str, tail: bytes
):
    data = VALID_FILES[name]
    cut = outcome(tmp_path, data[: int(len(data) * 0.8)] + tail)
    # a progressive file that ends after a scan is whole to its decoder, but coarse
    assert isinstance(cut, str) or "progressive" in name
    np.testing.assert_array_equal(outcome(tmp_path, data + tail), outcome(tmp_path, data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["baseline.jpg", "colour.jpg", "restarts.jpg", "cmyk.jpg"])
@pytest.mark.parametrize("damage", [bytes, random.Random(0).randbytes, lambda n: b""])
def test_a_jpeg_with_a_sector_overwritten_or_lost_is_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture, name: str, damage: Callable[[int], bytes]
):
    data = VALID_FILES[name]
    scan = data.rfind(b"\xff\xda") + 14
    for start in range(scan + 200, len(data) - 600, 512):
        assert "damaged" in outcome(tmp_path, data[:start] + damage(512) + data[start + 512 :]), start
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_an_image_is_read_with_any_redirection_of_stderr(tmp_path: Path, redirection: str):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    code = "import pathlib; from cxrlt.inputs.decode import decode; decode(pathlib.Path('a.jpg'), 32)"
    command = f'"$0" -c "{code}" {redirection}'
    assert subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize("name", INVALID_FILES)
def test_an_invalid_file_is_refused_with_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture, name: str):
    data, reason = INVALID_FILES[name]
    assert re.search(reason, outcome(tmp_path, data))
    assert re.search(reason, outcome(tmp_path, data, channels=3))
    assert capfd.readouterr() == ("", "")


def test_a_cache_has_all_valid_files_and_the_reasons_of_the_others(tmp_path: Path):
    given = {name: (data, "") for name, data in VALID_FILES.items()} | INVALID_FILES
    for number, (data, _) in enumerate(given.values()):
        (tmp_path / str(number)).write_bytes(data)
    files = [str(tmp_path / str(number)) for number in range(len(given))]
    table = pd.DataFrame({"file": files}, index=pd.Index(given, name="image_id"))
    places = (SIZE, tmp_path / "cache", "csv", "train", tmp_path)
    build = partial(build_cache, table, *places, workers=2)
    with pytest.raises(UserError, match=f"{len(INVALID_FILES)} of {len(given)} images cannot be read"):
        build()
    cache = build(quarantine=True)
    assert set(cache.ids) == set(VALID_FILES) and set(cache.quarantined) == set(INVALID_FILES)
    reasons = read_quarantine(cache.directory)["reason"]
    assert all(re.search(reason, reasons[name]) for name, (_, reason) in INVALID_FILES.items())


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (1, 20000), (2, 3)])
@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_an_image_of_a_single_row_or_column_is_read(tmp_path: Path, shape: tuple[int, int], kind: str):
    assert (outcome(tmp_path, opencv(np.full(shape, 100, np.uint8), kind)) == 100).all()


def test_a_large_bomb_of_pixels_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(headers, "MAX_UNCHECKED_BYTES", 1000)
    bomb, cut, broken = png(1000, 1000, INFLATED), INFLATED[:50_000], b"x" * 2000
    assert len(INFLATED) < 9 * 1000 * 1000
    assert outcome(tmp_path, bomb) == "the PNG contains more data than its header says"
    assert "cannot be decoded" in outcome(tmp_path, png(9000, 9000, cut))
    assert "cannot be decoded" in outcome(tmp_path, png(1000, 1000, broken))
    for name in ("grey.png", "interlaced.png", "sixteen_colour.png", "alpha.png"):
        assert isinstance(outcome(tmp_path, VALID_FILES[name]), np.ndarray)


@pytest.mark.parametrize("keyword", [b"zTXt", b"iCCP", b"iTXt"])
def test_compressed_text_chunks_are_not_inflated(
    tmp_path: Path, capfd: pytest.CaptureFixture, keyword: bytes
):
    start = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}[keyword]
    at = 8 + 25
    data = GREY_PNG[:at] + chunk(keyword, start + INFLATED) + GREY_PNG[at:]
    np.testing.assert_array_equal(outcome(tmp_path, data), outcome(tmp_path, GREY_PNG))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_in_jpeg_and_png(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x112] = orientation
    turned = [
        outcome(tmp_path, pillow(radiograph(64, 64), kind, exif=exif.tobytes(), **options))
        for kind, options in (("PNG", {}), ("JPEG", {"quality": 100}))
    ]
    upright = Image.Exif()
    upright[0x112] = 1
    straight = outcome(tmp_path, pillow(radiograph(64, 64), "PNG", exif=upright.tobytes()))
    np.testing.assert_allclose(turned[0].astype(int), turned[1], atol=4)
    assert np.array_equal(turned[0], straight) == (orientation == 1)


def test_the_header_of_a_thumbnail_is_not_the_image_s(tmp_path: Path):
    huge = with_frame(JPEG, 60000, 60000)[:-2] + b"\xff\xd9"
    exif = b"Exif\0\0" + huge[: 60_000 - 8]
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    np.testing.assert_array_equal(outcome(tmp_path, JPEG[:2] + segment + JPEG[2:]), outcome(tmp_path, JPEG))


def test_a_marker_without_a_length_hides_no_header(tmp_path: Path):
    small = JPEG[2:]
    hidden = b"\xff\xd8\xff\xd0" + with_frame(JPEG, 40000, 40000)[2:]
    decoy = b"\xff\xd8\xff\x01" + struct.pack(">H", 300) + bytes(298) + small
    assert "claims 40000 x 40000 pixels" in outcome(tmp_path, hidden)
    assert isinstance(outcome(tmp_path, decoy), str)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_a_pipe_and_a_device_are_refused(tmp_path: Path, channels: int):
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "zeros.png", tmp_path / "pipe.png"):
        with pytest.raises(UnreadableImageError, match="a folder or a device, not a file"):
            decode(path, SIZE, channels)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UnreadableImageError, match="larger than 256 MB"):
        decode(tmp_path / "large.png", SIZE)


def test_the_largest_radiographs_are_within_the_bounds():
    film = 35 / 0.005 * 43 / 0.005
    assert film < MAX_PIXELS and film * 2 < MAX_BYTES
    assert max(data.count(b"\xff\xda") for data in VALID_FILES.values()) * 5 < MAX_SCANS


def largest(folder: Path, kind: str) -> Path:
    """Return the largest allowed image, in the format that needs the most memory."""
    path, side = folder / kind, 10_000
    if kind == "deep.png":
        stream, row = zlib.compressobj(1), b"\0" + bytes(side * 8)
        rows = [stream.compress(row) for _ in range(side)]
        path.write_bytes(png(side, side, b"".join([*rows, stream.flush()]), depth=16, colour=6))
    else:
        path.write_bytes(pillow(np.zeros((side, side), np.uint8), "JPEG", "RGB", progressive=True))
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory taken")
@pytest.mark.parametrize(("kind", "channels"), [("deep.png", 3), ("progressive.jpg", 1)])
def test_an_image_at_the_bound_takes_no_more_memory_than_is_stated(tmp_path: Path, kind: str, channels: int):
    code = (
        "import sys, pathlib\n"
        "from cxrlt.inputs.decode import decode\n"
        f"decode(pathlib.Path(sys.argv[1]), {SIZE}, {channels})\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) >> 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, largest(tmp_path, kind)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < MEMORY_BOUND
    assert done.stderr == ""


def test_refusing_takes_no_memory(tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data, _ in INVALID_FILES.values():
        outcome(tmp_path, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_change_of_a_file_gives_an_image_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    changed = bytearray(data.draw(st.sampled_from(list(VALID_FILES.values()))))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, min(len(changed), data.draw(st.sampled_from([700, 1 << 20])))))
        removed = data.draw(st.sampled_from([0, 1, 2, 64]))
        changed[at : at + removed] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        changed = with_sums(bytes(changed))
    folder = tmp_path_factory.getbasetemp()
    outcome(folder, bytes(changed), data.draw(st.sampled_from([1, 3])))


def with_sums(data: bytes) -> bytes:
    """Return a PNG with corrected checksums, other files unchanged."""
    at, parts = 8, [data[:8]]
    while at + 12 <= len(data) and data.startswith(b"\x89PNG"):
        length = int.from_bytes(data[at : at + 4])
        parts.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join([*parts, data[at:]])
