"""Headers and structure of JPEG and PNG files, checked before any pixel is decoded."""

import re
import stat
import zlib
from pathlib import Path

MAX_BYTES = 1 << 28
"""Of a file: far more than any radiograph has, so that a hostile file is not read into memory."""
MAX_PIXELS = 100_000_000
"""Film of 35 x 43 cm scanned at .05 mm has 60 million. One process takes up to 1.2 GB for 100 million."""
MAX_SCANS = 100
"""Of a JPEG: each passes over all pixels again. Encoders write a dozen."""
MAX_UNCHECKED = 1 << 24
"""Compressed bytes of a PNG's pixels: this many inflate within a minute even if to 1,000 times as many."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
IHDR = b"\0\0\0\rIHDR"
JPEG_START, JPEG_END, SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xCA})
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


def read_file(path: Path) -> bytes:
    """The bytes of a file, but not those of a device or a pipe, which may never end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("a folder or a device, not a file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MB")
    return path.read_bytes()


def jpeg_shape(data: bytes) -> tuple[int, int]:
    """(height, width). Raises ValueError for a JPEG that does not reach its end, or of a kind not read."""
    frame, scan = _frame_and_scan(data)
    # a decoder fills what is missing with grey; sought from the end, where it should be
    if data.rfind(JPEG_END, scan) < 0:
        raise ValueError("the JPEG ends early")
    if data[frame + 4] != 8:
        raise ValueError(f"a JPEG of {data[frame + 4]} bits, not 8")
    in_parts = data[frame + 1] in PROGRESSIVE or data[scan + 4] < data[frame + 9]
    if in_parts and len(re.findall(SCAN, data)) > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
    height, width = (int.from_bytes(data[frame + at : frame + at + 2]) for at in (5, 7))
    _check_pixels(height, width)
    return height, width


def check_png(data: bytes) -> None:
    """Raises ValueError for a PNG that ends early, has a wrong checksum, an animation or too many pixels."""
    if len(data) < 33:
        raise ValueError("the PNG ends early")
    if data[8:16] != IHDR:
        raise ValueError("the PNG does not begin with its header")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    _check_pixels(height, width)
    at, kind, compressed = len(PNG_SIGNATURE), b"", []
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
    # 8 bytes a pixel is the most that PNG knows, and 1 a row
    if _inflates_beyond(9 * height * width + 4096, compressed):
        raise ValueError("the PNG holds more data than its header says")


def _inflates_beyond(limit: int, parts: list[memoryview]) -> bool:
    """Whether a stream is longer than `limit` bytes: libpng would inflate it to its very end."""
    compressed = sum(map(len, parts))
    if compressed <= MAX_UNCHECKED:
        return compressed > limit
    stream, inflated = zlib.decompressobj(), 0
    for part in parts:
        while part and inflated <= limit:
            try:
                inflated += len(stream.decompress(part, 1 << 20))
            except zlib.error:
                return False  # libpng will say so too, and no later
            part = stream.unconsumed_tail
    return inflated > limit


def _check_pixels(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"the header claims {width} x {height} pixels")


def _frame_and_scan(data: bytes) -> tuple[int, int]:
    """Where the frame header and the first scan begin, not those of a thumbnail inside of a segment."""
    frame, at = None, len(JPEG_START)
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in WITHOUT_LENGTH:
            at += 2
        elif marker == SCAN[1] and frame is not None:
            return frame, at
        else:
            frame = at if marker in FRAME_HEADERS else frame
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError("the JPEG ends early")
