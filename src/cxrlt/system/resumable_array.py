"""Write .npy files row by row, so that written rows survive a killed process."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cxrlt.errors import UserError
from cxrlt.system.atomic_files import atomic_path, cannot_write


def require_disk_space(path: Path, n_bytes: int, advice: str) -> None:
    """Raise UserError, with `advice`, if the disk of `path` has less than `n_bytes` free."""
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise UserError(
            f"{path} needs {n_bytes / 1e9:,.1f} GB more, but its disk has {free / 1e9:,.1f} GB free. {advice}"
        )


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """Create a .npy file of zeros with this shape."""
    with atomic_path(path) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)


@contextmanager
def writing_rows(path: Path) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Give a function `write(row, values)` for the rows of the .npy file `path`.

    A written row survives a kill of the process immediately, and a power cut after the end of the block.
    Raises UserError if the disk cannot be written, ValueError for a row of another shape or dtype.
    """
    array = np.load(path, mmap_mode="r")
    # not with a memory map: a full disk would kill the process instead of raising an OSError
    try:
        with path.open("r+b") as file:

            def write(row: int, values: np.ndarray) -> None:
                if not 0 <= row < len(array) or (values.shape, values.dtype) != (
                    array.shape[1:],
                    array.dtype,
                ):
                    raise ValueError(f"row {row} of {path} cannot be {values.dtype} of shape {values.shape}")
                file.seek(array.offset + row * values.nbytes)
                file.write(values.tobytes())
                file.flush()

            yield write
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error


def write_rows(path: Path, rows: Iterable[int], values: Iterable[np.ndarray]) -> None:
    """Write `values` (one array per row) to `rows` of the .npy file `path`. Raises as `writing_rows`."""
    with writing_rows(path) as write:
        for row, value in zip(rows, values, strict=True):
            write(row, value)


def array_problem(path: Path, dtype: type, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with a .npy file that should contain an array of this dtype and shape, or None.

    The values are not checked.
    """
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:  # empty, cut off, pickled objects
        return f"{path.name}: {error}"
    if (array.dtype, array.shape) != (np.dtype(dtype), shape):
        return f"{path.name} has {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of shape {shape}"
    return None
