"""Decode an image file to a small square image, grey or RGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from cxrlt.inputs.headers import JPEG_START, PNG_SIGNATURE, check_png, jpeg_shape, read_file

DECODERS = {
    channels: f"{colour} uint8; reduced JPEG; 16 bits by percentile 0.5-99.5; area shrink, linear growth; 1"
    for channels, colour in ((1, "grey"), (3, "RGB"))
}
"""What `decode` does to pixels, by number of channels.

It is part of the key of every cache, so change it when the code changes the pixels.
"""

WINDOW_PERCENTILES = (0.5, 99.5)
"""Percentiles of a 16-bit image that become black and white."""
HISTOGRAM_BLOCK = 1 << 20
"""Pixels that are counted at once, to save memory."""
IMREAD_FLAGS = {
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
DAMAGE_MESSAGES = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
"""Beginnings of libjpeg's messages about lost data. Its other messages are harmless."""


class UnreadableImageError(Exception):
    """An image file that is missing, empty, truncated, corrupt or neither JPEG nor PNG."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(path: Path, size: int, channels: int = 1) -> np.ndarray:
    """Decode the image in `path` and resize it to a square, without cropping.

    Returns uint8 (size, size) for 1 channel (colours become luminance), uint8 (size, size, 3) RGB for 3
    channels (grey is repeated). Reads JPEG and PNG: grey, palette or colour, 8 or 16 bits; alpha is dropped.
    16-bit images are windowed from the 0.5th to the 99.5th percentile of all their pixels. A side longer
    than `size` is shrunk by area averaging, a shorter one is enlarged linearly (area interpolation would
    repeat pixels). The EXIF orientation is applied.

    Raises UnreadableImageError, also for truncated files, PNG chunks with a wrong checksum, JPEG data that
    libjpeg could not use, and files beyond the limits in headers.py. JPEG has no checksum, so most changes of
    a single bit are not detected.
    """
    return decode_bytes(read_image(path), path, size, channels)


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file. Raises UnreadableImageError, also if it is too large."""
    with _unreadable_errors(path):
        return read_file(path)


def decode_bytes(data: bytes, path: Path, size: int, channels: int = 1) -> np.ndarray:
    """Decode the bytes of the file `path`; as `decode`: uint8 (size, size) or (size, size, 3).

    Raises UnreadableImageError.
    """
    with _unreadable_errors(path):
        return resize_to_square(_decode(data, size, channels), size)


@contextmanager
def _unreadable_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading and decoding into UnreadableImageError."""
    try:
        yield
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableImageError(path, str(error)) from error
    except cv2.error as error:
        raise UnreadableImageError(path, f"OpenCV cannot decode it: {error.err}") from error


def resize_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (h, w) or (h, w, 3) to (size, size) or (size, size, 3): area to shrink, linear to enlarge."""
    height, width = image.shape[:2]
    shrunk = (min(width, size), min(height, size))
    if shrunk != (width, height):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image


def _decode(data: bytes, size: int, channels: int) -> np.ndarray:
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(PNG_SIGNATURE):
        return _decode_png(data, size, channels)
    if data.startswith(JPEG_START):
        return _decode_jpeg(data, size, channels)
    raise ValueError("neither a JPEG nor a PNG file")


def _decode_jpeg(data: bytes, size: int, channels: int) -> np.ndarray:
    shorter_side, flags = min(jpeg_shape(data)), IMREAD_FLAGS[channels]
    # libjpeg rounds reduced sides up
    factor = next(factor for factor in flags if factor == 1 or -(-shorter_side // factor) >= size)
    image = _imdecode(data, flags[factor])
    return image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_png(data: bytes, size: int, channels: int) -> np.ndarray:
    check_png(data)
    image = _imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if image.ndim == 3:
        conversion = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, conversion)
    elif channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return _window(image, size) if image.dtype == np.uint16 else image


def _window(image: np.ndarray, size: int) -> np.ndarray:
    """Convert uint16 (h, w[, 3]) to uint8 (size, size[, 3]). Percentiles are those of the full image."""
    low, high = _percentiles(image)
    scaled = (resize_to_square(image, size).astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _percentiles(image: np.ndarray) -> tuple[int, int]:
    blocks = np.array_split(image.ravel(), -(-image.size // HISTOGRAM_BLOCK))  # bincount: 8 bytes a value
    histograms = [np.bincount(block, minlength=1 << 16) for block in blocks]
    counts = np.sum(histograms, axis=0).cumsum()
    low, high = np.searchsorted(counts, np.array(WINDOW_PERCENTILES) / 100 * image.size)
    if low == high:  # nearly all pixels have the same value: use the whole range
        low, high = image.min(), image.max()
    return int(low), int(high)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    with _captured_stderr() as messages:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("the pixels cannot be decoded")
    if damage := [line for line in messages if line.startswith(DAMAGE_MESSAGES)]:
        raise ValueError(f"damaged: libjpeg reports {damage[0]!r}")
    return image


@contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """Hide the lines that decoders print to stderr, and put them into a list at the end of the block.

    libjpeg reports damage on stderr only. Not thread-safe: the whole process shares stderr.
    """
    messages: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # the parent process has closed stderr
        stderr = None
    if stderr is None or os.name != "posix":  # on other systems a full pipe would block the decoder
        yield messages
        return
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        os.dup2(writer, 2)
        os.close(writer)
        try:
            yield messages
        finally:
            os.dup2(stderr, 2)
        messages += os.read(reader, 1 << 16).decode(errors="replace").splitlines()
    finally:
        os.close(reader)
        os.close(stderr)
