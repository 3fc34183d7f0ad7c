"""From an image file to a small square, grey or in colour."""

import zlib
from pathlib import Path

import cv2
import numpy as np

DECODERS = {
    1: "grey uint8; reduced JPEG; 16 bits by percentile 0.5-99.5; area shrink, linear growth; 1",
    3: "RGB uint8; reduced JPEG; 16 bits by percentile 0.5-99.5; area shrink, linear growth; 1",
}
"""What `decode` does to pixels, by the channels it gives; part of every cache's key: change both together."""

WINDOW = (0.5, 99.5)
REDUCED = {
    1: {
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        1: cv2.IMREAD_GRAYSCALE,
    },
    3: {
        8: cv2.IMREAD_REDUCED_COLOR_8,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        1: cv2.IMREAD_COLOR,
    },
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA


class UnreadableImageError(Exception):
    """An image file that cannot be trusted: missing, empty, truncated, corrupt, or of another kind."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(path: Path, size: int, channels: int = 1) -> np.ndarray:
    """The image in `path` as uint8, squashed to a square, nothing cut off.

    Of shape (size, size) for 1 channel (colours become their luminance), (size, size, 3) in the order red,
    green, blue for 3 (grey is repeated). Reads JPEG and PNG: grey, palette or colour, with or without alpha
    (which is dropped), 8 or 16 bits. 16-bit pixels are windowed from their 0.5th to their 99.5th percentile,
    of all colours together. A side longer than `size` shrinks by area averages, a shorter one grows linearly
    (area interpolation would repeat pixels). Raises UnreadableImageError, also for files that end early and
    PNG chunks whose checksum is wrong.
    """
    try:
        data = path.read_bytes()
        image = _decode(data, size, channels)
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error
    except (ValueError, cv2.error) as error:
        raise UnreadableImageError(path, str(error)) from error
    return squash(image, size)


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (h, w[, 3]) resampled to size x size: area averages where it shrinks, linear where it grows."""
    height, width = image.shape[:2]
    smaller = (min(width, size), min(height, size))
    if smaller != (width, height):
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image


def _decode(data: bytes, size: int, channels: int) -> np.ndarray:
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(PNG_SIGNATURE):
        return _decode_png(data, size, channels)
    if data.startswith(b"\xff\xd8"):
        return _decode_jpeg(data, size, channels)
    raise ValueError("neither a JPEG nor a PNG file")


def _decode_jpeg(data: bytes, size: int, channels: int) -> np.ndarray:
    shorter_side, flags = min(_jpeg_shape(data)), REDUCED[channels]
    # libjpeg rounds reduced sides up
    factor = next(factor for factor in flags if factor == 1 or -(-shorter_side // factor) >= size)
    image = _imdecode(data, flags[factor])
    return image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _jpeg_shape(data: bytes) -> tuple[int, int]:
    """(height, width) from the frame header. Raises ValueError for a JPEG that does not reach its end."""
    shape, at = None, 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in FRAME_HEADERS:
            shape = (int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9]))
        if marker == START_OF_SCAN:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    # a decoder fills what is missing with grey and says nothing; sought from the end, where it should be
    if shape is None or data.rfind(JPEG_END, at) < 0:
        raise ValueError("the JPEG ends early")
    return shape


def _decode_png(data: bytes, size: int, channels: int) -> np.ndarray:
    _check_png(data)
    image = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        to = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), to)
    elif channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return _window(image, size) if image.dtype == np.uint16 else image


def _check_png(data: bytes) -> None:
    at, kind = len(PNG_SIGNATURE), b""
    view = memoryview(data)
    while kind != b"IEND":
        length = int.from_bytes(view[at : at + 4])
        end = at + 12 + length
        if end > len(data):
            raise ValueError("the PNG ends early")
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise ValueError("a PNG chunk has a wrong checksum")
        at = end


def _window(image: np.ndarray, size: int) -> np.ndarray:
    """uint16 (h, w[, 3]) to uint8 of size x size, the percentiles taken over every pixel of the original."""
    low, high = _percentiles(image)
    scaled = (squash(image, size).astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _percentiles(image: np.ndarray) -> tuple[int, int]:
    counts = np.bincount(image.ravel(), minlength=1 << 16).cumsum()
    low, high = np.searchsorted(counts, np.array(WINDOW) / 100 * image.size)
    if low == high:  # nearly every pixel is alike: show what differs
        low, high = image.min(), image.max()
    return int(low), int(high)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("the pixels cannot be decoded")
    return image
