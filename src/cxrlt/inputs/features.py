"""Features of a frozen model, computed once per image and then memory-mapped.

A folder holds features.npy (n, t, d) float32, ids.csv with the image id of each row, done.npy (n,) bool, and
meta.json with the key: whatever the features are a function of. A row counts only once it is in done.npy,
which is written after the features are on disk; so a writer may be killed at any moment, and the next one
continues from there.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.packed import (
    META,
    Arrays,
    DamagedError,
    PackedRows,
    create_packed,
    read_packed,
    remove_packed,
)
from cxrlt.system.locks import exclusive, remove_leftovers
from cxrlt.system.resumable_array import require_room, write_rows

Key = Mapping[str, object]
"""What features are a function of, as JSON knows it: strings, numbers, lists."""


class FeatureCache(PackedRows):
    """Finished features."""

    absent = "No features in {}"

    @cached_property
    def features(self) -> np.ndarray:
        """All rows, read-only, float32 (n, t, d): t tokens of d numbers."""
        return self.array("features.npy")

    def __reduce__(self) -> tuple:
        return open_features, (self.directory,)


@dataclass(frozen=True)
class FeatureWriter:
    """What `feature_writer` gives; `ids` are sorted."""

    directory: Path
    ids: pd.Index

    @property
    def pending(self) -> np.ndarray:
        """Positions in `ids` whose features are not written yet (int64)."""
        return np.flatnonzero(~np.load(self.directory / "done.npy"))

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Put `features` (b, t, d) at `rows` (b,); from then on they outlive a kill. One block at a time."""
        write_rows(self.directory / "features.npy", rows.tolist(), features.astype(np.float32, copy=False))
        write_rows(self.directory / "done.npy", rows.tolist(), np.ones(len(rows), np.bool_))


def features_path(cache_dir: Path, name: str, ids: Iterable[str], key: Key) -> Path:
    """Folder of the features of these ids, in whatever order, under this key."""
    identity = json.dumps([key, sorted(ids)], sort_keys=True)
    return cache_dir / f"features-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def open_features(directory: Path) -> FeatureCache | None:
    """The features in `directory`; None where there are none, or damaged ones, or some rows are not done."""
    try:
        _, ids = read_packed(directory, _arrays_of)
    except DamagedError:
        return None
    if not np.load(directory / "done.npy").all():
        return None
    remove_leftovers(directory)
    return FeatureCache(directory, pd.Series(np.arange(len(ids)), index=ids))


def _arrays_of(meta: Mapping) -> Arrays:
    n, shape = meta["n_images"], meta["shape"]
    return {"features.npy": (np.float32, (n, *shape)), "done.npy": (np.bool_, (n,))}


@contextmanager
def feature_writer(
    directory: Path, ids: Sequence[str], shape: tuple[int, int], key: Key
) -> Iterator[FeatureWriter]:
    """Fill a folder with the features, each float32 of `shape` (t, d), of `ids`, in any number of attempts.

        with feature_writer(directory, ids, (t, d), key) as writer:
            for rows in blocks(writer.pending):
                writer.write(rows, features_of(writer.ids[rows]))

    Of several writers one works and the others wait, and then find nothing pending. What another key, other
    ids or another shape left in `directory` is replaced. Says what is needed of the disk first; raises
    UserError if the disk lacks the room, or cannot be written.
    """
    index = pd.Index(sorted(ids))
    # through JSON, as what lies there will be read
    meta = json.loads(json.dumps({"key": dict(key), "n_images": len(index), "shape": shape}))
    try:
        with exclusive(directory, wait=True):
            _begin(directory, index, meta)
            yield FeatureWriter(directory, index)
    except OSError as error:
        raise UserError(
            f"The features {directory} cannot be written: {error}. "
            "Put them on another disk with --cache-dir DIR."
        ) from error


def _begin(directory: Path, ids: pd.Index, meta: dict) -> None:
    arrays, is_begun = _arrays_of(meta), _resumes(directory, ids, meta)
    n_left = np.count_nonzero(~np.load(directory / "done.npy")) if is_begun else len(ids)
    n_bytes = n_left * int(np.prod(meta["shape"])) * np.dtype(np.float32).itemsize
    require_room(
        directory / "features.npy",
        n_bytes,
        "Make room, choose a smaller model.grid, or put it on another disk with --cache-dir DIR.",
    )
    if not is_begun:
        create_packed(directory, ids, arrays, meta)
    if n_left:
        print(
            f"features of {n_left:,} of {len(ids):,} images into {directory}: "
            f"{' x '.join(map(str, meta['shape']))} numbers each, {n_bytes / 1e9:.2f} GB",
            file=sys.stderr,
            flush=True,
        )


def _resumes(directory: Path, ids: pd.Index, meta: dict) -> bool:
    """Whether what lies in the folder is a part of these features; if not, it is removed."""
    fault = None
    if (directory / META).is_file():
        try:
            found, its_ids = read_packed(directory, _arrays_of)
        except DamagedError as error:
            fault = error
        else:
            if found == meta and its_ids.equals(ids):
                return True
    remove_packed(directory, _arrays_of(meta), fault)
    return False


class FeatureReader:
    """Features out of a cache, float32 (t, d), whatever the epoch. Raises UserError if it lacks an id."""

    name = "features"

    def __init__(self, cache: FeatureCache, ids: Sequence[str]) -> None:
        self.cache = cache
        self.cache_rows = cache.rows_of(ids)

    def read(self, row: int, epoch: int, copy: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.cache.features[self.cache_rows[row]]))
