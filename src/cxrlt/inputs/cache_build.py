"""Building the packed cache: in parallel, in any number of attempts, by one process at a time."""

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
    arrays_of,
    cache_path,
    caches_of,
    is_done,
    open_cache,
    read_parts,
    read_quarantine,
    real_path,
)
from cxrlt.inputs.cache_rows import Decoded, Unreadable, decode_rows
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.packed import META, DamagedError, create_packed, remove_packed, write_csv
from cxrlt.inputs.sources import STAT, hashing, stats_of
from cxrlt.system.locks import exclusive, remove_leftovers
from cxrlt.system.processes import in_processes
from cxrlt.system.resumable_array import require_room, write_rows, writing_rows

CHUNK = 64
"""Rows that one process decodes before they are marked as done."""
COPY_CHUNK = 1024
"""Rows that are copied from another cache before they are marked as done."""
N_TIMED = 8
"""Images decoded by one process before the others, to say how long the rest will take."""
DECODED = ("images.npy", "thumbs.npy", "hashes.npy")
"""What is made of a file, a row each; a row of sources.npy says that they are there."""
NOT_YET = np.zeros(len(STAT), np.int64)
"""What sources.npy holds of a row that is not decoded."""


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
    """The cache of the images in `table` (index image_id, column `file`), made or finished where needed.

    The files lie below `images_dir`. Decodes with `workers` processes (default: one per core), after saying
    what it will cost in disk and time; what another cache of the challenge has of the same files is copied.
    Files that have another stat than before are hashed, and decoded again if their bytes are others. Of
    several builders one works and the others wait. Raises UserError if the disk lacks the room, and if
    images cannot be read: with `quarantine` those are recorded in quarantine.csv and left out instead, and
    are tried again once their file has changed.
    """
    if table.empty:
        raise UserError(f"{challenge} {split} has no images to cache.")
    table = table.sort_index()
    directory = cache_path(table["file"], size, cache_dir, challenge, split, images_dir, channels)
    images = real_path(images_dir)
    build = _Build(directory, challenge, split, images, size, channels, table, workers or cpu_count())
    if build.is_finished():
        remove_leftovers(directory)
    else:
        try:
            with exclusive(directory, wait=True):
                build.run(quarantine)
        except OSError as error:
            raise UserError(
                f"The image cache {directory} cannot be written: {error}. "
                f"Put it on another disk with --cache-dir DIR."
            ) from error
    return open_cache(directory)


@dataclass(frozen=True, eq=False)
class _Build:
    directory: Path
    challenge: str
    split: str
    images: str
    size: int
    channels: int
    table: pd.DataFrame
    workers: int

    @property
    def decoding(self) -> tuple[int, str]:
        return self.size, DECODERS[self.channels]

    @property
    def image_bytes(self) -> int:
        return self.size**2 * self.channels

    @cached_property
    def stats(self) -> np.ndarray:
        """Of every file as it is now, int64 (n, 4)."""
        return stats_of(self.table["file"].tolist())

    @property
    def sources(self) -> np.ndarray:
        return np.load(self.directory / "sources.npy")

    def is_finished(self) -> bool:
        return self.is_begun and self.fault() is None and not len(self.changed()) and not len(self.pending())

    @property
    def is_begun(self) -> bool:
        return (self.directory / META).is_file()

    def fault(self) -> str | None:
        """What is wrong with what lies here."""
        try:
            _, ids = read_parts(self.directory)
        except DamagedError as error:
            return str(error)
        return None if ids.equals(self.table.index) else "ids.csv holds other ids"

    def changed(self) -> np.ndarray:
        """Rows decoded from a file that had another stat than it has now."""
        sources = self.sources
        return np.flatnonzero(is_done(sources) & (sources != self.stats).any(axis=1))

    def pending(self) -> np.ndarray:
        """Rows that are not decoded and were not found unreadable in the file as it is now."""
        tried = read_quarantine(self.directory)[list(STAT)].reindex(self.table.index, fill_value=-1)
        return np.flatnonzero(~is_done(self.sources) & (tried.to_numpy() != self.stats).any(axis=1))

    def run(self, quarantine: bool) -> None:
        if self.is_finished():  # by the process that held the lock before
            return
        if self.is_begun and (fault := self.fault()):
            remove_packed(self.directory, ["sources.npy", *DECODED, "quarantine.csv"], fault)
        self.check_room()
        self.create()
        self.rehash(self.changed())
        self.copy(self.pending())
        failures = self.decode_pending(self.pending())
        self.record(failures if quarantine else {})
        if failures and not quarantine:
            bad = [f"{self.table['file'].iloc[row]} ({failures[row].reason})" for row in sorted(failures)]
            raise UserError(
                f"{self.challenge} {self.split}: {len(bad):,} of {len(self.table):,} images cannot be read: "
                f"{listing(bad)}. "
                f"Replace the files and run again, or leave them out with: "
                f"cxrlt cache {self.challenge} --size {self.size} --quarantine"
            )

    def check_room(self) -> None:
        """Every image needs a byte per pixel and channel, less what an earlier attempt has already taken."""
        taken = np.count_nonzero(is_done(self.sources)) if self.is_begun else 0
        require_room(
            self.directory / "images.npy",
            (len(self.table) - taken) * self.image_bytes,
            "Make room, choose a smaller --size, or put the cache on another disk with --cache-dir DIR.",
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
        arrays = arrays_of(len(self.table), self.size, self.channels)
        create_packed(self.directory, self.table.index, arrays, meta)

    def rehash(self, rows: np.ndarray) -> None:
        """Hash these rows' files: rows of the same bytes are done, the others are to be decoded."""
        if not len(rows):
            return
        self.say(f"{len(rows):,} of {len(self.table):,} image files have changed: they are hashed again")
        known = np.load(self.directory / "hashes.npy", mmap_mode="r")
        with (
            hashing(self.table["file"].iloc[rows].tolist()) as found,
            writing_rows(self.directory / "sources.npy") as mark,
        ):
            for row, (stat, sha256) in zip(rows.tolist(), self.bar(found, len(rows), "hash"), strict=True):
                mark(row, np.array(stat, np.int64) if sha256 == known[row].tobytes() else NOT_YET)

    def copy(self, pending: np.ndarray) -> None:
        """Take rows from other caches of the challenge whose files had the stat that these have now."""
        if not len(pending):
            return
        for directory, meta, ids in caches_of(self.directory.parent, self.challenge):
            if directory == self.directory or (meta["size"], meta["decoder"]) != self.decoding:
                continue
            there = ids.get_indexer(self.table.index[pending])
            theirs = np.load(directory / "sources.npy", mmap_mode="r")
            same = (there >= 0) & is_done(self.stats[pending])
            same &= (theirs[there] == self.stats[pending]).all(axis=1)
            if same.any():
                self.copy_from(directory, there[same], pending[same])
                pending = pending[~same]

    def copy_from(self, directory: Path, there: np.ndarray, rows: np.ndarray) -> None:
        self.say(f"{len(rows):,} of {len(self.table):,} images are copied from {directory}")
        with self.bar(None, len(rows), "copy") as bar:
            for chunk in np.array_split(np.arange(len(rows)), -(-len(rows) // COPY_CHUNK)):
                self.copy_chunk(directory, there[chunk], rows[chunk])
                bar.update(len(chunk))

    def copy_chunk(self, directory: Path, there: np.ndarray, rows: np.ndarray) -> None:
        for name in DECODED:
            theirs = np.load(directory / name, mmap_mode="r")
            write_rows(self.directory / name, rows.tolist(), (theirs[row] for row in there.tolist()))
        now = np.load(directory / "sources.npy", mmap_mode="r")[there]
        same = (now == self.stats[rows]).all(axis=1)  # others were decoded again by another process meanwhile
        write_rows(self.directory / "sources.npy", rows[same].tolist(), now[same])

    def decode_pending(self, pending: np.ndarray) -> dict[int, Unreadable]:
        """Decode the pending rows. Returns why, for each row that cannot be read."""
        if not len(pending):
            return {}
        first = np.linspace(0, len(pending) - 1, min(N_TIMED, len(pending))).astype(int)
        start = time.perf_counter()
        timed = decode_rows(*self.files(pending[first]))
        self.announce(len(pending), (time.perf_counter() - start) / len(first))
        failures: dict[int, Unreadable] = {}
        with (
            self.bar(None, len(pending), "cache") as bar,
            writing_rows(self.directory / "sources.npy") as mark,
        ):
            for readable, failed in chain([timed], self.decode_chunks(np.delete(pending, first))):
                failures |= failed
                for row, stat in readable.items():
                    mark(row, np.array(stat, np.int64))
                bar.update(len(readable) + len(failed))
        return failures

    def decode_chunks(self, rows: np.ndarray) -> Iterator[Decoded]:
        chunks = np.array_split(rows, -(-len(rows) // CHUNK)) if len(rows) else []
        workers = max(min(self.workers, len(chunks)), 1)
        return in_processes((delayed(decode_rows)(*self.files(chunk)) for chunk in chunks), workers, "decode")

    def files(self, rows: np.ndarray) -> tuple[Path, np.ndarray, list[str]]:
        return self.directory, rows, self.table["file"].iloc[rows].tolist()

    def bar(self, items: Iterable | None, total: int, work: str) -> tqdm:
        return tqdm(items, total=total, desc=work, unit="image", disable=None)

    def announce(self, n_pending: int, seconds_each: float) -> None:
        seconds = seconds_each * n_pending / min(self.workers, cpu_count())
        self.say(
            f"{n_pending:,} of {len(self.table):,} images to decode "
            f"at {self.size} px into {self.directory}: {n_pending * self.image_bytes / 1e9:.2f} GB, "
            + (f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s")
        )

    def say(self, sentence: str) -> None:
        print(f"{self.challenge} {self.split}: {sentence}", file=sys.stderr, flush=True)

    def record(self, failures: dict[int, Unreadable]) -> None:
        """Write quarantine.csv: what it held, less the rows that can be read by now, and `failures`."""
        old = read_quarantine(self.directory)
        readable = self.table.index[is_done(self.sources)]
        rows = sorted(failures)
        stats = np.array([failures[row].stat for row in rows], np.int64).reshape(-1, len(STAT))
        new = pd.DataFrame(
            {
                "path": self.table["file"].iloc[rows].astype(str).to_numpy(),
                **dict(zip(STAT, stats.T, strict=True)),
                "sha256": [failures[row].sha256 for row in rows],
                "reason": [failures[row].reason for row in rows],
            },
            index=self.table.index[rows].rename("image_id"),
        )
        kept = old.drop(index=readable.union(new.index), errors="ignore")
        if len(old) or len(new):
            write_csv(self.directory / "quarantine.csv", pd.concat([kept, new]).reset_index())
