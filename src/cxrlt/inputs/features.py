"""Features of a frozen model, computed once per image and memory-mapped ever after.

A folder holds features.npy (n, t, d) float32, ids.csv with the image id of each row, done.npy (n,) bool, and
meta.json with the key: whatever the features are a function of. A row counts only once it is in done.npy,
which is written after the features are on disk; so a writer may be killed at any moment, and the next one
goes on from there.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.cache import META, read_csv, rows_of_ids, write_csv
from cxrlt.inputs.dataset import Inputs, Item, LabelledRows, rows_of_single
from cxrlt.system.atomic_files import write_json
from cxrlt.system.locks import exclusive, remove_leftovers
from cxrlt.system.resumable_array import array_fault, create_array, require_room, writing_rows

Key = Mapping[str, object]
"""What features are a function of, as JSON knows it: strings, numbers, lists."""


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Finished features; `rows` maps the id of every image to its row of `features`.

    Pickles as its folder's name: each process maps the file for itself.
    """

    directory: Path
    key: Key
    rows: pd.Series

    @property
    def ids(self) -> pd.Index:
        return self.rows.index

    @cached_property
    def features(self) -> np.ndarray:
        """All rows, read-only, float32 (n, t, d): t tokens of d numbers."""
        return np.load(self.directory / "features.npy", mmap_mode="r")

    def rows_of(self, ids: Iterable[str]) -> np.ndarray:
        """Row in `features` of each id (int64). Raises UserError for ids that are not there."""
        return rows_of_ids(self.rows, ids, lambda absent: f"No features in {self.directory} of: {absent}.")

    def __reduce__(self) -> tuple:
        return open_features, (self.directory,)


def features_path(cache_dir: Path, name: str, ids: Iterable[str], key: Key) -> Path:
    """Folder of the features of these ids, in whatever order, under this key."""
    identity = json.dumps([key, sorted(ids)], sort_keys=True)
    return cache_dir / f"features-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def open_features(directory: Path) -> FeatureCache | None:
    """The features in `directory`; None where there are none, or damaged ones, or some rows are not done."""
    if _fault_of(directory) or not np.load(directory / "done.npy").all():
        return None
    remove_leftovers(directory)
    meta = json.loads((directory / META).read_text(encoding="utf-8"))
    ids = pd.Index(read_csv(directory / "ids.csv")["image_id"])
    return FeatureCache(directory, meta["key"], pd.Series(np.arange(len(ids)), index=ids))


def _fault_of(directory: Path) -> str | None:
    """What is wrong with the shape of the files; nothing hashes the numbers in them."""
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        n, shape = meta["n_images"], tuple(meta["shape"])
        n_ids = len(read_csv(directory / "ids.csv")["image_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    if n_ids != n:
        return f"ids.csv has {n_ids:,} rows, not {n:,}"
    features, done = directory / "features.npy", directory / "done.npy"
    return array_fault(features, np.float32, (n, *shape)) or array_fault(done, np.bool_, (n,))


class FeatureWriter:
    """Fills a folder with the features, each float32 of `shape` (t, d), of `ids`, in any number of attempts.

        with FeatureWriter(directory, ids, (t, d), key) as writer:
            for rows in blocks(writer.pending):           # positions in writer.ids, which is sorted
                writer.write(rows, features_of(writer.ids[rows]))

    Of several writers one works and the others wait, and then find nothing pending. What another key, other
    ids or another shape left in `directory` is replaced. Says what is needed of the disk first; raises
    UserError if the disk lacks the room.
    """

    def __init__(
        self, directory: Path, ids: Sequence[str], shape: tuple[int, int], key: Key, progress: bool = True
    ) -> None:
        self.directory = directory
        self.ids = pd.Index(sorted(ids))
        self.shape = shape
        self.key = key
        self.progress = progress
        self._held = ExitStack()

    @property
    def pending(self) -> np.ndarray:
        """Positions in `self.ids` whose features are not written yet (int64)."""
        return np.flatnonzero(~np.load(self.directory / "done.npy"))

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Put `features` (b, t, d) at `rows` (b,); from then on they outlive a kill. One block at a time."""
        with writing_rows(self.directory / "features.npy") as write:
            for row, values in zip(rows.tolist(), features.astype(np.float32, copy=False), strict=True):
                write(row, values)
        with writing_rows(self.directory / "done.npy") as mark:
            for row in rows.tolist():
                mark(row, np.bool_(True))

    def __enter__(self) -> Self:
        try:
            self._held.enter_context(exclusive(self.directory, wait=True))
            self._begin()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if isinstance(error, OSError):
            raise UserError(
                f"The features {self.directory} cannot be written: {error}. "
                f"Put them on another disk with --cache-dir DIR."
            ) from error

    def _begin(self) -> None:
        same = self._is_begun()
        n_left = len(self.pending) if same else len(self.ids)
        n_bytes = n_left * int(np.prod(self.shape)) * np.dtype(np.float32).itemsize
        if not same:
            self._clear()
        require_room(
            self.directory / "features.npy",
            n_bytes,
            "Make room, choose a smaller model.grid, or put it on another disk with --cache-dir DIR.",
        )
        if not same:
            self._create()
        if n_left and self.progress:
            print(
                f"features of {n_left:,} of {len(self.ids):,} images into {self.directory}: "
                f"{' x '.join(map(str, self.shape))} numbers each, {n_bytes / 1e9:.2f} GB",
                file=sys.stderr,
                flush=True,
            )

    def _meta(self) -> dict[str, object]:
        return {"key": dict(self.key), "n_images": len(self.ids), "shape": list(self.shape)}

    def _is_begun(self) -> bool:
        """Whether what lies here is the beginning of these features. meta.json comes last and goes first."""
        meta = self.directory / META
        if not meta.is_file():
            return False
        if fault := _fault_of(self.directory):
            print(f"{self.directory} is damaged ({fault}): it is built anew", file=sys.stderr, flush=True)
            return False
        if json.loads(meta.read_text(encoding="utf-8")) != _as_json(self._meta()):
            return False
        return read_csv(self.directory / "ids.csv")["image_id"].tolist() == self.ids.tolist()

    def _clear(self) -> None:
        for name in (META, "done.npy", "features.npy"):
            (self.directory / name).unlink(missing_ok=True)

    def _create(self) -> None:
        create_array(self.directory / "features.npy", np.float32, (len(self.ids), *self.shape))
        create_array(self.directory / "done.npy", np.bool_, (len(self.ids),))
        write_csv(self.directory / "ids.csv", pd.DataFrame({"image_id": self.ids}))
        write_json(self.directory / META, self._meta())


class FeatureReader:
    """Features out of a cache, float32 (t, d), whatever the epoch. Raises UserError if it lacks an id."""

    name = "features"

    def __init__(self, cache: FeatureCache, ids: Sequence[str]) -> None:
        self.cache = cache
        self.cache_rows = cache.rows_of(ids)

    def read(self, row: int, epoch: int, copy: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.cache.features[self.cache_rows[row]]))


class FeatureDataset(LabelledRows):
    """Item (epoch, draw): {"features": float32 (t, d)}, float32 targets (n_classes,), row.

    `targets` (n, n_classes) has one row per id. Raises UserError if the cache lacks an id.
    """

    def __init__(self, features: FeatureCache, ids: Sequence[str], targets: np.ndarray) -> None:
        super().__init__(rows_of_single(ids, targets), targets)
        self.reader = FeatureReader(features, ids)

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        epoch, draw = item
        copy, row = divmod(draw, len(self))
        return {"features": self.reader.read(row, epoch, copy)}, self.targets[row], row


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))
