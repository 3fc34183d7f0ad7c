"""Build the image cache: in parallel, resumable, by one process at a time."""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count, delayed
from tqdm import tqdm

from cxrlt.errors import UserError, listing
from cxrlt.inputs.cache import (
    ImageCache,
    array_specs,
    cache_path,
    find_caches,
    is_decoded,
    open_cache,
    read_cache_files,
    read_quarantine,
    real_path,
)
from cxrlt.inputs.cache_rows import DecodeResult, Unreadable, decode_rows
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.file_stats import STAT_FIELDS, get_stats, hash_files
from cxrlt.inputs.packed import META, DamagedError, create_packed, remove_packed, write_csv
from cxrlt.system.locks import lock_folder, remove_leftovers
from cxrlt.system.processes import map_in_processes
from cxrlt.system.resumable_array import require_disk_space, write_rows, writing_rows

DECODE_CHUNK = 64
"""Rows that a worker process decodes before they are marked as decoded."""
COPY_CHUNK = 1024
"""Rows copied from another cache before they are marked as decoded."""
N_TIMED = 8
"""Images decoded first, in one process, to estimate how long the rest takes."""
DECODED_ARRAYS = ("images.npy", "thumbs.npy", "hashes.npy")
"""Arrays with one row per decoded file. A row counts if the same row of sources.npy is not zero."""
NOT_DECODED = np.zeros(len(STAT_FIELDS), np.int64)
"""The row of sources.npy of an image that is not decoded."""


def build_cache(
    table: pd.DataFrame,
    size: int,
    cache_dir: Path,
    challenge: str,
    split: str,
    images_dir: Path,
    *,
    channels: int = 1,
    workers: int | None = None,
    quarantine: bool = False,
) -> ImageCache:
    """Return the cache of the images in `table` (index image_id, column `file`); build or finish it first.

    The files are below `images_dir`. Rows that another cache of the challenge has of the same files are
    copied; the others are decoded by `workers` processes (default: one per core), after a message with the
    needed disk space and time. Files whose stat has changed are hashed, and decoded again if their bytes
    have changed. If several processes build the same cache, one works and the others wait.

    Raises UserError if the disk is too small or if images cannot be read. With `quarantine`, unreadable
    images are excluded and listed in quarantine.csv, and are tried again when their file changes.
    """
    if table.empty:
        raise UserError(f"{challenge} {split} has no images to cache.")
    table = table.sort_index()
    directory = cache_path(table["file"], size, cache_dir, challenge, split, images_dir, channels)
    images = real_path(images_dir)
    build = _CacheBuild(directory, challenge, split, images, size, channels, table, workers or cpu_count())
    if build.is_finished():
        remove_leftovers(directory)
    else:
        try:
            with lock_folder(directory, wait=True):
                build.run(quarantine)
        except OSError as error:
            raise UserError(
                f"The image cache {directory} cannot be written: {error}. "
                f"Put it on another disk with --cache-dir DIR."
            ) from error
    return open_cache(directory)


@dataclass(frozen=True, eq=False)
class _CacheBuild:
    """One run of `build_cache` in `directory`."""

    directory: Path
    challenge: str
    split: str
    images: str
    size: int
    channels: int
    table: pd.DataFrame
    workers: int

    @property
    def size_and_decoder(self) -> tuple[int, str]:
        return self.size, DECODERS[self.channels]

    @property
    def image_bytes(self) -> int:
        return self.size**2 * self.channels

    @cached_property
    def stats(self) -> np.ndarray:
        """Current stat of every file: int64 (n, 4)."""
        return get_stats(self.table["file"].tolist())

    @property
    def sources(self) -> np.ndarray:
        return np.load(self.directory / "sources.npy")

    def is_finished(self) -> bool:
        return (
            self.is_begun and self.problem() is None and not len(self.changed()) and not len(self.pending())
        )

    @property
    def is_begun(self) -> bool:
        return (self.directory / META).is_file()

    def problem(self) -> str | None:
        """Return what is wrong with the files of the cache; None if they are fine."""
        try:
            _, ids = read_cache_files(self.directory)
        except DamagedError as error:
            return str(error)
        return None if ids.equals(self.table.index) else "ids.csv has other ids"

    def changed(self) -> np.ndarray:
        """Return the decoded rows whose file has another stat now: int64 (k,)."""
        sources = self.sources
        return np.flatnonzero(is_decoded(sources) & (sources != self.stats).any(axis=1))

    def pending(self) -> np.ndarray:
        """Return the rows that are not decoded, without those whose file is known to be unreadable."""
        tried = read_quarantine(self.directory)[list(STAT_FIELDS)].reindex(self.table.index, fill_value=-1)
        return np.flatnonzero(~is_decoded(self.sources) & (tried.to_numpy() != self.stats).any(axis=1))

    def run(self, quarantine: bool) -> None:
        """Build the cache. Raises UserError for unreadable images, unless `quarantine`."""
        if self.is_finished():  # by the process that had the lock before
            return
        if self.is_begun and (problem := self.problem()):
            remove_packed(self.directory, ["sources.npy", *DECODED_ARRAYS, "quarantine.csv"], problem)
        self.check_disk_space()
        self.create()
        self.rehash_changed(self.changed())
        self.copy_from_caches(self.pending())
        failures = self.decode_pending(self.pending())
        self.write_quarantine(failures if quarantine else {})
        if failures and not quarantine:
            bad = [f"{self.table['file'].iloc[row]} ({failures[row].reason})" for row in sorted(failures)]
            raise UserError(
                f"{self.challenge} {self.split}: {len(bad):,} of {len(self.table):,} images cannot be read: "
                f"{listing(bad)}. "
                f"Replace the files and run the same command again, or exclude them with: "
                f"cxrlt cache {self.challenge} --size {self.size} --quarantine"
            )

    def check_disk_space(self) -> None:
        """Raise UserError if the disk has no room for the images that are not decoded yet."""
        n_decoded = int(np.count_nonzero(is_decoded(self.sources))) if self.is_begun else 0
        require_disk_space(
            self.directory / "images.npy",
            (len(self.table) - n_decoded) * self.image_bytes,
            "Free disk space, choose a smaller --size, or use another disk with --cache-dir DIR.",
        )

    def create(self) -> None:
        if self.is_begun:
            return
        meta = {
            "challenge": self.challenge,
            "split": self.split,
            "size": self.size,
            "n_images": len(self.table),
            "images": self.images,
            "decoder": DECODERS[self.channels],
        }
        arrays = array_specs(len(self.table), self.size, self.channels)
        create_packed(self.directory, self.table.index, arrays, meta)

    def rehash_changed(self, rows: np.ndarray) -> None:
        """Hash the files of these rows (k,). Unchanged bytes: still decoded. Changed bytes: pending."""
        if not len(rows):
            return
        self.log(f"{len(rows):,} of {len(self.table):,} image files have changed: hashing them again")
        known = np.load(self.directory / "hashes.npy", mmap_mode="r")
        with (
            hash_files(self.table["file"].iloc[rows].tolist()) as found,
            writing_rows(self.directory / "sources.npy") as mark,
        ):
            for row, (stat, sha256) in zip(
                rows.tolist(), self.progress_bar(found, len(rows), "hash"), strict=True
            ):
                mark(row, np.array(stat, np.int64) if sha256 == known[row].tobytes() else NOT_DECODED)

    def copy_from_caches(self, pending: np.ndarray) -> None:
        """Copy rows from other caches of the challenge if the stat of the file is the same."""
        if not len(pending):
            return
        for directory, meta, ids in find_caches(self.directory.parent, self.challenge):
            if directory == self.directory or (meta["size"], meta["decoder"]) != self.size_and_decoder:
                continue
            other_rows = ids.get_indexer(self.table.index[pending])
            other_sources = np.load(directory / "sources.npy", mmap_mode="r")
            same = (other_rows >= 0) & is_decoded(self.stats[pending])
            same &= (other_sources[other_rows] == self.stats[pending]).all(axis=1)
            if same.any():
                self.copy_from_cache(directory, other_rows[same], pending[same])
                pending = pending[~same]

    def copy_from_cache(self, directory: Path, other_rows: np.ndarray, rows: np.ndarray) -> None:
        self.log(f"copying {len(rows):,} of {len(self.table):,} images from {directory}")
        with self.progress_bar(None, len(rows), "copy") as bar:
            for chunk in np.array_split(np.arange(len(rows)), -(-len(rows) // COPY_CHUNK)):
                self.copy_rows(directory, other_rows[chunk], rows[chunk])
                bar.update(len(chunk))

    def copy_rows(self, directory: Path, other_rows: np.ndarray, rows: np.ndarray) -> None:
        for name in DECODED_ARRAYS:
            other = np.load(directory / name, mmap_mode="r")
            write_rows(self.directory / name, rows.tolist(), (other[row] for row in other_rows.tolist()))
        # read last: meanwhile another process may have decoded some rows again
        stats = np.load(directory / "sources.npy", mmap_mode="r")[other_rows]
        same = (stats == self.stats[rows]).all(axis=1)
        write_rows(self.directory / "sources.npy", rows[same].tolist(), stats[same])

    def decode_pending(self, pending: np.ndarray) -> dict[int, Unreadable]:
        """Decode the pending rows. Return those that cannot be read, with the reason."""
        if not len(pending):
            return {}
        first = np.linspace(0, len(pending) - 1, min(N_TIMED, len(pending))).astype(int)
        start = time.perf_counter()
        timed = decode_rows(*self.decode_arguments(pending[first]))
        self.log_estimate(len(pending), (time.perf_counter() - start) / len(first))
        failures: dict[int, Unreadable] = {}
        with (
            self.progress_bar(None, len(pending), "cache") as bar,
            writing_rows(self.directory / "sources.npy") as mark,
        ):
            for readable, failed in chain([timed], self.decode_chunks(np.delete(pending, first))):
                failures |= failed
                for row, stat in readable.items():
                    mark(row, np.array(stat, np.int64))
                bar.update(len(readable) + len(failed))
        return failures

    def decode_chunks(self, rows: np.ndarray) -> Iterator[DecodeResult]:
        chunks = np.array_split(rows, -(-len(rows) // DECODE_CHUNK)) if len(rows) else []
        workers = max(min(self.workers, len(chunks)), 1)
        return map_in_processes(
            (delayed(decode_rows)(*self.decode_arguments(chunk)) for chunk in chunks), workers, "decode"
        )

    def decode_arguments(self, rows: np.ndarray) -> tuple[Path, np.ndarray, list[str]]:
        return self.directory, rows, self.table["file"].iloc[rows].tolist()

    def progress_bar(self, items: Iterable | None, total: int, work: str) -> tqdm:
        return tqdm(items, total=total, desc=work, unit="image", disable=None)

    def log_estimate(self, n_pending: int, seconds_each: float) -> None:
        seconds = seconds_each * n_pending / min(self.workers, cpu_count())
        self.log(
            f"{n_pending:,} of {len(self.table):,} images to decode "
            f"at {self.size} px into {self.directory}: {n_pending * self.image_bytes / 1e9:.2f} GB, "
            + (f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s")
        )

    def log(self, message: str) -> None:
        print(f"{self.challenge} {self.split}: {message}", file=sys.stderr, flush=True)

    def write_quarantine(self, failures: dict[int, Unreadable]) -> None:
        """Update quarantine.csv: add `failures` and remove the rows that are readable now."""
        old = read_quarantine(self.directory)
        readable = self.table.index[is_decoded(self.sources)]
        rows = sorted(failures)
        stats = np.array([failures[row].stat for row in rows], np.int64).reshape(-1, len(STAT_FIELDS))
        new = pd.DataFrame(
            {
                "path": self.table["file"].iloc[rows].astype(str).to_numpy(),
                **dict(zip(STAT_FIELDS, stats.T, strict=True)),
                "sha256": [failures[row].sha256 for row in rows],
                "reason": [failures[row].reason for row in rows],
            },
            index=self.table.index[rows].rename("image_id"),
        )
        kept = old.drop(index=readable.union(new.index), errors="ignore")
        if len(old) or len(new):
            write_csv(self.directory / "quarantine.csv", pd.concat([kept, new]).reset_index())
