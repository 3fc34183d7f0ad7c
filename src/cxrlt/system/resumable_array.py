"""What caches share that are filled row by row: room, one writer at a time, and rows that outlive a kill."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cxrlt.errors import UserError
from cxrlt.system.atomic_files import atomic_path, cannot_write


def require_room(path: Path, n_bytes: int, advice: str) -> None:
    """Raises UserError, with `advice` on what fixes it, where the disk of `path` lacks that many bytes."""
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise UserError(
            f"{path} needs {n_bytes / 1e9:,.1f} GB more and its disk has {free / 1e9:,.1f} GB free. {advice}"
        )


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """A .npy file of zeros."""
    with atomic_path(path) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)


@contextmanager
def writing_rows(path: Path) -> Iterator[Callable[[int, np.ndarray], None]]:
    """`write(row, values)` for the array in the .npy file `path`.

    A row outlives a kill from then on, and a power cut once the block has ended. Raises UserError where the
    disk does not take it.
    """
    array = np.load(path, mmap_mode="r")
    # written as a file: a full disk is then an OSError, where a memory map would kill the process
    try:
        with path.open("r+b") as file:

            def write(row: int, values: np.ndarray) -> None:
                if not 0 <= row < len(array) or (values.shape, values.dtype) != (
                    array.shape[1:],
                    array.dtype,
                ):
                    raise ValueError(f"{values.dtype} of {values.shape} is no row {row} of {path}")
                file.seek(array.offset + row * values.nbytes)
                file.write(values.tobytes())
                file.flush()

            yield write
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error


def write_rows(path: Path, rows: Iterable[int], values: Iterable[np.ndarray]) -> None:
    """As `writing_rows`, for rows whose values are known."""
    with writing_rows(path) as write:
        for row, value in zip(rows, values, strict=True):
            write(row, value)


def array_fault(path: Path, dtype: type, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a .npy file that should hold such an array; its values are not looked at."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:  # empty, cut off, pickled objects
        return f"{path.name}: {error}"
    if (array.dtype, array.shape) != (np.dtype(dtype), shape):
        return f"{path.name} holds {array.dtype} of {array.shape}, not {np.dtype(dtype)} of {shape}"
    return None
