"""What every process of a cache build runs; without pandas, so that it starts soon and stays small."""

from pathlib import Path

import cv2
import numpy as np

from cxrlt.inputs.decode import UnreadableImageError, decode
from cxrlt.inputs.filling import writing_rows


def decode_rows(images_path: Path, rows: np.ndarray, files: list[str]) -> tuple[list[int], dict[int, str]]:
    """Decode `files` into `rows` of the array. Returns the rows done and why the others failed."""
    cv2.setNumThreads(0)
    array = np.load(images_path, mmap_mode="r")
    size, channels = array.shape[1], 3 if array.ndim == 4 else 1
    done, failures = [], {}
    with writing_rows(images_path) as write:
        for row, file in zip(rows.tolist(), files, strict=True):
            try:
                write(row, decode(Path(file), size, channels))
                done.append(row)
            except UnreadableImageError as error:
                failures[row] = error.reason
    return done, failures
