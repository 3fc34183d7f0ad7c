"""The work of each process of a cache build. No import of pandas, so that processes start fast and small."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cxrlt.inputs.decode import UnreadableImageError, decode_bytes, read_image
from cxrlt.inputs.file_stats import get_stat
from cxrlt.inputs.inverted import THUMB_SIZE
from cxrlt.system.resumable_array import writing_rows


class Unreadable(NamedTuple):
    """Why an image cannot be decoded; stat and SHA-256 (hexadecimal, "" without bytes) of its file."""

    stat: tuple[int, ...]
    sha256: str
    reason: str


DecodeResult = tuple[dict[int, tuple[int, ...]], dict[int, Unreadable]]
"""The stat of the file (taken before reading it) by decoded row, and the failures by row."""


def decode_rows(directory: Path, rows: np.ndarray, files: list[str]) -> DecodeResult:
    """Decode `files` into `rows` (int64 (n,)) of images.npy, thumbs.npy and hashes.npy.

    Every file is read once. Raises UserError if the disk is full.
    """
    cv2.setNumThreads(0)
    array = np.load(directory / "images.npy", mmap_mode="r")
    size, channels = array.shape[1], 3 if array.ndim == 4 else 1
    decoded: dict[int, tuple[int, ...]] = {}
    failures: dict[int, Unreadable] = {}
    with (
        writing_rows(directory / "images.npy") as write_image,
        writing_rows(directory / "hashes.npy") as write_hash,
        writing_rows(directory / "thumbs.npy") as write_thumb,
    ):
        for row, file in zip(rows.tolist(), files, strict=True):
            stat, sha256 = get_stat(file), b""
            try:
                data = read_image(Path(file))
                sha256 = hashlib.sha256(data).digest()
                image = decode_bytes(data, Path(file), size, channels)
            except UnreadableImageError as error:
                failures[row] = Unreadable(stat, sha256.hex(), error.reason)
                continue
            write_image(row, image)
            write_thumb(row, _thumbnail(image))
            write_hash(row, np.frombuffer(sha256, np.uint8))
            decoded[row] = stat
    return decoded, failures


def _thumbnail(image: np.ndarray) -> np.ndarray:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMB_SIZE, THUMB_SIZE), interpolation=cv2.INTER_AREA)
