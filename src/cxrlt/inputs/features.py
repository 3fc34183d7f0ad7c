"""Feature cache: features of a frozen model, computed once per image and then memory-mapped.

A folder contains features.npy (n, t, d) float32, ids.csv with the image id of each row, done.npy (n,) bool,
and meta.json with the key (everything that the features depend on). A row of done.npy is written after its
features are on disk, so a writer can be killed at any moment and the next one continues.
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
    ArraySpecs,
    DamagedError,
    PackedRows,
    create_packed,
    read_packed,
    remove_packed,
)
from cxrlt.system.locks import lock_folder, remove_leftovers
from cxrlt.system.resumable_array import require_disk_space, write_rows

Key = Mapping[str, object]
"""What the features depend on, as JSON values: strings, numbers, lists."""


class FeatureCache(PackedRows):
    """A finished feature cache."""

    not_found = "Not in the feature cache {}"

    @cached_property
    def features(self) -> np.ndarray:
        """Features of all rows, read-only: float32 (n, t, d), with t tokens of dimension d."""
        return self.array("features.npy")

    def __reduce__(self) -> tuple:
        return open_features, (self.directory,)


@dataclass(frozen=True)
class FeatureWriter:
    """Writes the features of `ids` (sorted) into `directory`; made by `feature_writer`."""

    directory: Path
    ids: pd.Index

    @property
    def pending(self) -> np.ndarray:
        """Rows (positions in `ids`) whose features are not written yet: int64 (n_pending,)."""
        return np.flatnonzero(~np.load(self.directory / "done.npy"))

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Write `features` (b, t, d) to `rows` (b,). After that they survive a kill. Not thread-safe."""
        write_rows(self.directory / "features.npy", rows.tolist(), features.astype(np.float32, copy=False))
        write_rows(self.directory / "done.npy", rows.tolist(), np.ones(len(rows), np.bool_))


def features_path(cache_dir: Path, name: str, ids: Iterable[str], key: Key) -> Path:
    """Return the folder of the features of these ids (in any order) and this key."""
    identity = json.dumps([key, sorted(ids)], sort_keys=True)
    return cache_dir / f"features-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def open_features(directory: Path) -> FeatureCache | None:
    """Open the features in `directory`; None if there are none, if they are damaged or not finished."""
    try:
        _, ids = read_packed(directory, _array_specs)
    except DamagedError:
        return None
    if not np.load(directory / "done.npy").all():
        return None
    remove_leftovers(directory)
    return FeatureCache(directory, pd.Series(np.arange(len(ids)), index=ids))


def _array_specs(meta: Mapping) -> ArraySpecs:
    n, shape = meta["n_images"], meta["shape"]
    return {"features.npy": (np.float32, (n, *shape)), "done.npy": (np.bool_, (n,))}


@contextmanager
def feature_writer(
    directory: Path, ids: Sequence[str], shape: tuple[int, int], key: Key
) -> Iterator[FeatureWriter]:
    """Fill a folder with the features of `ids`, each float32 of `shape` (t, d); continues an earlier run.

        with feature_writer(directory, ids, (t, d), key) as writer:
            for rows in blocks(writer.pending):
                writer.write(rows, features_of(writer.ids[rows]))

    If several processes write the same folder, one works; the others wait and then find nothing pending.
    Features of another key, other ids or another shape are replaced. Prints the needed disk space first.
    Raises UserError if the disk is too small or cannot be written.
    """
    index = pd.Index(sorted(ids))
    # through JSON, so that it equals what is read back: JSON has no tuples
    meta = json.loads(json.dumps({"key": dict(key), "n_images": len(index), "shape": shape}))
    try:
        with lock_folder(directory, wait=True):
            _prepare_folder(directory, index, meta)
            yield FeatureWriter(directory, index)
    except OSError as error:
        raise UserError(
            f"The features {directory} cannot be written: {error}. "
            "Put them on another disk with --cache-dir DIR."
        ) from error


def _prepare_folder(directory: Path, ids: pd.Index, meta: dict) -> None:
    arrays, is_begun = _array_specs(meta), _can_resume(directory, ids, meta)
    n_left = int(np.count_nonzero(~np.load(directory / "done.npy"))) if is_begun else len(ids)
    n_bytes = n_left * int(np.prod(meta["shape"])) * np.dtype(np.float32).itemsize
    require_disk_space(
        directory / "features.npy",
        n_bytes,
        "Free disk space, choose a smaller model.grid, or put it on another disk with --cache-dir DIR.",
    )
    if not is_begun:
        create_packed(directory, ids, arrays, meta)
    if n_left:
        print(
            f"computing features of {n_left:,} of {len(ids):,} images into {directory}: "
            f"{' x '.join(map(str, meta['shape']))} numbers each, {n_bytes / 1e9:.2f} GB",
            file=sys.stderr,
            flush=True,
        )


def _can_resume(directory: Path, ids: pd.Index, meta: dict) -> bool:
    """Return whether the folder contains a part of these features. If not, remove its files."""
    damage = None
    if (directory / META).is_file():
        try:
            found_meta, found_ids = read_packed(directory, _array_specs)
        except DamagedError as error:
            damage = error
        else:
            if found_meta == meta and found_ids.equals(ids):
                return True
    remove_packed(directory, _array_specs(meta), damage)
    return False


class FeatureReader:
    """Reads features from a cache. Raises UserError if the cache lacks an id."""

    name = "features"

    def __init__(self, cache: FeatureCache, ids: Sequence[str]) -> None:
        self.cache = cache
        self.cache_rows = cache.rows_of(ids)

    def read(self, row: int, epoch: int, copy: int) -> torch.Tensor:
        """Return the features of a row: float32 (t, d), the same for every epoch and copy."""
        return torch.from_numpy(np.array(self.cache.features[self.cache_rows[row]]))
