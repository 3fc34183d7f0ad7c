"""What every process of a cache build runs; without pandas, so that it starts fast and stays small."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cxrlt.inputs.decode import UnreadableImageError, decode_bytes, read_image
from cxrlt.inputs.inverted import THUMB
from cxrlt.inputs.sources import stat_of
from cxrlt.system.resumable_array import writing_rows


class Unreadable(NamedTuple):
    """Why an image is not decoded; stat and hash (hexadecimal, empty if there are no bytes) of its file."""

    stat: tuple[int, ...]
    sha256: str
    reason: str


Decoded = tuple[dict[int, tuple[int, ...]], dict[int, Unreadable]]
"""By row the stat of the file, taken before it was read; of the others why they failed."""


def decode_rows(directory: Path, rows: np.ndarray, files: list[str]) -> Decoded:
    """Decode `files`, each read once, into `rows` of images.npy, thumbs.npy and hashes.npy."""
    cv2.setNumThreads(0)
    array = np.load(directory / "images.npy", mmap_mode="r")
    size, channels = array.shape[1], 3 if array.ndim == 4 else 1
    done, failures = {}, {}
    with (
        writing_rows(directory / "images.npy") as write_image,
        writing_rows(directory / "hashes.npy") as write_hash,
        writing_rows(directory / "thumbs.npy") as write_thumb,
    ):
        for row, file in zip(rows.tolist(), files, strict=True):
            stat, sha256 = stat_of(file), b""
            try:
                data = read_image(Path(file))
                sha256 = hashlib.sha256(data).digest()
                image = decode_bytes(data, Path(file), size, channels)
            except UnreadableImageError as error:
                failures[row] = Unreadable(stat, sha256.hex(), error.reason)
                continue
            write_image(row, image)
            write_thumb(row, _thumb(image))
            write_hash(row, np.frombuffer(sha256, np.uint8))
            done[row] = stat
    return done, failures


def _thumb(image: np.ndarray) -> np.ndarray:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
