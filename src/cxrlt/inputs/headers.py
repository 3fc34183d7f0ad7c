"""Check headers and structure of JPEG and PNG files before any pixel is decoded."""

import re
import stat
import zlib
from pathlib import Path

MAX_BYTES = 1 << 28
"""Largest image file, 256 MB: more than any radiograph, so that a hostile file does not fill the memory."""
MAX_PIXELS = 100_000_000
"""Largest image. A 35 x 43 cm film scanned at 0.05 mm has 60 million. 100 million need up to 1.2 GB."""
MAX_SCANS = 100
"""Most scans of a progressive JPEG: each goes over all pixels again. Encoders write about 12."""
MAX_UNCHECKED_BYTES = 1 << 24
"""Smaller PNG data (16 MB) are not inflated to check them: 1,000 times as many take under a minute."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
IHDR = b"\0\0\0\rIHDR"
JPEG_START, JPEG_END, SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xCA})
MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises ValueError for a file that is too large and for a folder, a device or a pipe (which may never end).
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder or a device, not a file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MB")
    return path.read_bytes()


def jpeg_shape(data: bytes) -> tuple[int, int]:
    """Return (height, width). Raises ValueError for a JPEG that is truncated, too large or not of 8 bits."""
    frame, scan = _frame_and_scan(data)
    # without this check a decoder fills missing rows with grey; rfind, as the marker is near the end
    if data.rfind(JPEG_END, scan) < 0:
        raise ValueError("the JPEG ends early")
    if data[frame + 4] != 8:
        raise ValueError(f"a JPEG of {data[frame + 4]} bits, not 8")
    has_many_scans = data[frame + 1] in PROGRESSIVE or data[scan + 4] < data[frame + 9]
    if has_many_scans and len(re.findall(SCAN, data)) > MAX_SCANS:
        raise ValueError(f"a JPEG with more than {MAX_SCANS} scans")
    height, width = (int.from_bytes(data[frame + at : frame + at + 2]) for at in (5, 7))
    _check_pixels(height, width)
    return height, width


def check_png(data: bytes) -> None:
    """Raise ValueError for a PNG that is truncated, animated, too large or has a wrong checksum."""
    if len(data) < 33:
        raise ValueError("the PNG ends early")
    if data[8:16] != IHDR:
        raise ValueError("the PNG does not begin with a header")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    _check_pixels(height, width)
    at, kind = len(PNG_SIGNATURE), b""
    compressed: list[memoryview] = []
    view = memoryview(data)
    while kind != b"IEND":
        length = int.from_bytes(view[at : at + 4])
        end = at + 12 + length
        if end > len(data):
            raise ValueError("the PNG ends early")
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise ValueError("a PNG chunk has a wrong checksum")
        if kind == b"acTL":
            raise ValueError("an animated PNG")
        if kind == b"IDAT":
            compressed.append(view[at + 8 : end - 4])
        at = end
    # PNG has at most 8 bytes per pixel and one more per row
    if _inflates_beyond(9 * height * width + 4096, compressed):
        raise ValueError("the PNG contains more data than its header says")


def _inflates_beyond(limit: int, parts: list[memoryview]) -> bool:
    """Return whether the inflated data are longer than `limit` bytes: libpng would inflate all of them."""
    compressed = sum(map(len, parts))
    if compressed <= MAX_UNCHECKED_BYTES:
        return compressed > limit
    stream, inflated = zlib.decompressobj(), 0
    for part in parts:
        remaining: bytes | memoryview = part
        while remaining and inflated <= limit:
            try:
                inflated += len(stream.decompress(remaining, 1 << 20))
            except zlib.error:
                return False  # libpng finds the same error at the same place
            remaining = stream.unconsumed_tail
    return inflated > limit


def _check_pixels(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"the header claims {width} x {height} pixels")


def _frame_and_scan(data: bytes) -> tuple[int, int]:
    """Return the offsets of the frame header and of the first scan, skipping thumbnails inside segments."""
    frame, at = None, len(JPEG_START)
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in MARKERS_WITHOUT_LENGTH:
            at += 2
        elif marker == SCAN[1] and frame is not None:
            return frame, at
        else:
            frame = at if marker in FRAME_HEADERS else frame
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError("the JPEG ends early")
