"""A folder of .npy arrays with one row per image: the base of the image cache and the feature cache.

The folder also contains ids.csv, with the image id of each row, and meta.json. meta.json is written last and
removed first, so if it exists the other files have been complete.
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
from cxrlt.system.resumable_array import array_problem, create_array

META, IDS = "meta.json", "ids.csv"
ArraySpecs = Mapping[str, tuple[type, tuple[int, ...]]]
"""Dtype and shape of every array, by file name."""


class DamagedError(Exception):
    """Files of a cache are damaged or do not fit together."""


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A finished folder; `rows` (index image_id) is the row of every image in the arrays.

    Pickling a subclass saves only the folder's path: each process memory-maps the files itself.
    """

    directory: Path
    rows: pd.Series
    not_found: ClassVar[str]
    """Beginning of the error message about unknown ids; {} is replaced by the folder."""

    @property
    def ids(self) -> pd.Index:
        """Ids of all images that can be read."""
        return self.rows.index

    def rows_of(self, ids: Iterable[str]) -> np.ndarray:
        """Return the row of each id: int64 (n_ids,). Raises UserError for unknown ids."""
        return rows_of_ids(self.rows, ids, self.not_found.format(self.directory))

    def array(self, name: str) -> np.ndarray:
        """Return an array of the folder, read-only and memory-mapped: shape (n, …) as in its ArraySpecs."""
        return np.load(self.directory / name, mmap_mode="r")


def rows_of_ids(rows: pd.Series, ids: Iterable[str], not_found: str) -> np.ndarray:
    """Return the value of `rows` (index image_id) for each id: int64 (n_ids,).

    Raises UserError for unknown ids; its message begins with `not_found` and lists them.
    """
    wanted = pa.array(ids, pa.large_string())
    # with Arrow, as a pandas index keeps a hash table of all its strings after a look-up
    found = pyarrow.compute.index_in(wanted, pa.array(rows.index, pa.large_string()))
    if found.null_count:
        raise UserError(f"{not_found}: {listing(wanted.filter(found.is_null()).to_pylist())}.")
    return rows.to_numpy(np.int64)[found.to_numpy()]


def create_packed(
    directory: Path, ids: Iterable[str], arrays: ArraySpecs, meta: Mapping[str, object]
) -> None:
    """Create the folder's files; the arrays contain zeros."""
    for name, (dtype, shape) in arrays.items():
        create_array(directory / name, dtype, shape)
    write_csv(directory / IDS, pd.DataFrame({"image_id": ids}))
    write_json(directory / META, meta)


def read_packed(directory: Path, specs_of: Callable[[dict], ArraySpecs]) -> tuple[dict, pd.Index]:
    """Return meta.json and the ids of all rows.

    Raises DamagedError if an array does not have the dtype and shape of `specs_of(meta)`. Wrong values of the
    right dtype and shape are not detected. `specs_of` may raise for other damage.
    """
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        n, arrays = meta["n_images"], specs_of(meta)
        ids = pd.Index(read_csv(directory / IDS)["image_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    for name, (dtype, shape) in arrays.items():
        if problem := array_problem(directory / name, dtype, shape):
            raise DamagedError(problem)
    if len(ids) != n or not ids.is_unique:
        raise DamagedError(f"{IDS} does not list {n:,} different images")
    return meta, ids


def remove_packed(directory: Path, names: Iterable[str], problem: object = None) -> None:
    """Remove the files `names`, meta.json and ids.csv; if there is a `problem`, print it to stderr."""
    if problem:
        print(f"{directory} is damaged ({problem}): building it again", file=sys.stderr, flush=True)
    for name in (META, *names, IDS):
        (directory / name).unlink(missing_ok=True)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file; all columns are strings, so that an id like 007 or NA stays unchanged."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write the columns of `frame` without its index."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
