"""A folder of arrays with a row per image, filled in any number of attempts: what both kinds of cache are.

Beside the arrays lie ids.csv, with the image id of each row, and meta.json. That one is written last and
removed first: where it is, the other files were whole once.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from cxrlt.errors import UserError, listing
from cxrlt.system.atomic_files import atomic_path, write_json
from cxrlt.system.resumable_array import array_fault, create_array

META, IDS = "meta.json", "ids.csv"
Arrays = Mapping[str, tuple[type, tuple[int, ...]]]
"""Type and shape of every array, by the name of its file."""


class DamagedError(Exception):
    """Files of a folder do not fit together."""


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A finished folder; `rows` maps the id of every image to its row in the arrays.

    Subclasses pickle as the folder's name: each process maps the files for itself.
    """

    directory: Path
    rows: pd.Series
    absent: ClassVar[str]
    """What is said of ids that are not there, with {} for the folder."""

    @property
    def ids(self) -> pd.Index:
        return self.rows.index

    def rows_of(self, ids: Iterable[str]) -> np.ndarray:
        """Row of each id (int64). Raises UserError for ids that are not there."""
        return rows_of_ids(self.rows, ids, self.absent.format(self.directory))

    def array(self, name: str) -> np.ndarray:
        """All rows of one array, read-only and memory-mapped."""
        return np.load(self.directory / name, mmap_mode="r")


def rows_of_ids(rows: pd.Series, ids: Iterable[str], absent: str) -> np.ndarray:
    """`rows` (index image_id) of each id, int64. Raises UserError, `absent` and a list, for ids not there."""
    wanted = pa.array(ids, pa.large_string())
    # by Arrow, for a pandas index that was searched once keeps a table of all its strings
    found = pyarrow.compute.index_in(wanted, pa.array(rows.index, pa.large_string()))
    if found.null_count:
        raise UserError(f"{absent}: {listing(wanted.filter(found.is_null()).to_pylist())}.")
    return rows.to_numpy(np.int64)[found.to_numpy()]


def create_packed(directory: Path, ids: Iterable[str], arrays: Arrays, meta: Mapping[str, object]) -> None:
    """Arrays of zeros, and what else belongs to the folder."""
    for name, (dtype, shape) in arrays.items():
        create_array(directory / name, dtype, shape)
    write_csv(directory / IDS, pd.DataFrame({"image_id": ids}))
    write_json(directory / META, meta)


def read_packed(directory: Path, arrays_of: Callable[[dict], Arrays]) -> tuple[dict, pd.Index]:
    """meta.json and the ids of all rows. Raises DamagedError unless the arrays are those that it says.

    `arrays_of` may raise for anything else that is wrong. The arrays' numbers are not hashed: other ones of
    the same type and shape go unnoticed.
    """
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        n, arrays = meta["n_images"], arrays_of(meta)
        ids = pd.Index(read_csv(directory / IDS)["image_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    for name, (dtype, shape) in arrays.items():
        if fault := array_fault(directory / name, dtype, shape):
            raise DamagedError(fault)
    if len(ids) != n or not ids.is_unique:
        raise DamagedError(f"{IDS} does not name {n:,} images")
    return meta, ids


def remove_packed(directory: Path, names: Iterable[str], fault: object = None) -> None:
    """Remove these files and what else belongs to the folder, saying on stderr what is wrong with it."""
    if fault:
        print(f"{directory} is damaged ({fault}): it is built again", file=sys.stderr, flush=True)
    for name in (META, *names, IDS):
        (directory / name).unlink(missing_ok=True)


def read_csv(path: Path) -> pd.DataFrame:
    """A table of strings: ids stay what they are, and an image may be called NA."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
