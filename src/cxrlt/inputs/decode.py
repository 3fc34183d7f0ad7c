"""From an image file to a small square, grey or in colour."""

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
"""What `decode` does to pixels, by its channels; part of every cache's key: change it with the code."""

WINDOW = (0.5, 99.5)
BLOCK = 1 << 20
"""Pixels counted at a time."""
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
DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
"""Beginnings of libjpeg's messages about data that it could not use; its other messages are harmless."""


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
    (area interpolation would repeat pixels). An image is turned as its EXIF says, and as viewers show it.
    Raises UnreadableImageError, also for files that end early, PNG chunks whose checksum is wrong, JPEG data
    that libjpeg could not use, and what exceeds the bounds in headers.py. A single bit changed in a JPEG,
    which has no checksum, mostly passes.
    """
    return decode_bytes(read_image(path), path, size, channels)


def read_image(path: Path) -> bytes:
    """The bytes of an image file, within the bounds of headers.py. Raises UnreadableImageError."""
    with _reasons(path):
        return read_file(path)


def decode_bytes(data: bytes, path: Path, size: int, channels: int = 1) -> np.ndarray:
    """As `decode`, of the bytes that `path` held."""
    with _reasons(path):
        return squash(_decode(data, size, channels), size)


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableImageError(path, str(error)) from error
    except cv2.error as error:
        raise UnreadableImageError(path, f"OpenCV cannot decode it: {error.err}") from error


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
    if data.startswith(JPEG_START):
        return _decode_jpeg(data, size, channels)
    raise ValueError("neither a JPEG nor a PNG file")


def _decode_jpeg(data: bytes, size: int, channels: int) -> np.ndarray:
    shorter_side, flags = min(jpeg_shape(data)), REDUCED[channels]
    # libjpeg rounds reduced sides up
    factor = next(factor for factor in flags if factor == 1 or -(-shorter_side // factor) >= size)
    image = _imdecode(data, flags[factor])
    return image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_png(data: bytes, size: int, channels: int) -> np.ndarray:
    check_png(data)
    image = _imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if image.ndim == 3:
        to = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, to)
    elif channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return _window(image, size) if image.dtype == np.uint16 else image


def _window(image: np.ndarray, size: int) -> np.ndarray:
    """uint16 (h, w[, 3]) to uint8 of size x size, the percentiles taken over every pixel of the original."""
    low, high = _percentiles(image)
    scaled = (squash(image, size).astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _percentiles(image: np.ndarray) -> tuple[int, int]:
    blocks = np.array_split(image.ravel(), -(-image.size // BLOCK))  # bincount takes 8 bytes a value
    counts = sum(np.bincount(block, minlength=1 << 16) for block in blocks).cumsum()
    low, high = np.searchsorted(counts, np.array(WINDOW) / 100 * image.size)
    if low == high:  # nearly every pixel has one value: show those that differ
        low, high = image.min(), image.max()
    return int(low), int(high)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    with _messages() as messages:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("the pixels cannot be decoded")
    if damage := [line for line in messages if line.startswith(DAMAGE)]:
        raise ValueError(f"damaged: libjpeg says {damage[0]!r}")
    return image


@contextmanager
def _messages() -> Iterator[list[str]]:
    """The lines that decoders print, known at the end of the block: libjpeg reports damage on stderr only.

    The user does not see them. Not for threads: stderr belongs to the whole process.
    """
    messages: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # the parent process has closed it
        stderr = None
    if stderr is None or os.name != "posix":  # elsewhere a pipe that is full would stop the decoder
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
