"""Building the packed cache: in parallel, in any number of attempts, by one process at a time."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count, delayed
from tqdm import tqdm

from cxrlt.artifacts import write_json
from cxrlt.errors import UserError, listing
from cxrlt.inputs.cache import (
    META,
    DamagedError,
    ImageCache,
    cache_path,
    open_cache,
    read_parts,
    read_quarantine,
    write_csv,
)
from cxrlt.inputs.cache_rows import decode_rows
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.filling import create_array, require_room, writing_rows
from cxrlt.inputs.processes import in_processes
from cxrlt.locks import exclusive, sweep

CHUNK = 64
"""Rows that one process decodes before they are marked as done."""
N_TIMED = 8
"""Images decoded by one process before the others, to say how long the rest will take."""
N_STAT_THREADS = 16
"""On a network disk asking for the length of a file is all waiting."""
STAT_BLOCK = 64
"""Files that one thread asks for at a time: handing one over costs more than asking a local disk."""


def build_cache(
    table: pd.DataFrame,
    size: int,
    cache_dir: Path,
    challenge: str,
    split: str,
    *,
    channels: int = 1,
    workers: int | None = None,
    quarantine: bool = False,
    progress: bool = True,
) -> ImageCache:
    """The cache of the images in `table` (index image_id, column `file`), made or finished where needed.

    Decodes with `workers` processes (default: one per core), after saying what it will cost in disk and
    time. Of several builders one works and the others wait. Raises UserError if the disk lacks the room,
    and if images cannot be read: with `quarantine` those are recorded in quarantine.csv and left out
    instead, and are tried again once their file has changed.
    """
    if table.empty:
        raise UserError(f"{challenge} {split} has no images to cache.")
    table = table.sort_index()
    directory = cache_path(table.index, size, cache_dir, challenge, split, channels)
    build = _Build(directory, challenge, split, size, channels, table, workers or cpu_count(), progress)
    if build.is_finished():
        sweep(directory)
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
    size: int
    channels: int
    table: pd.DataFrame
    workers: int
    progress: bool

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (self.size, self.size) if self.channels == 1 else (self.size, self.size, self.channels)

    @property
    def image_bytes(self) -> int:
        return self.size**2 * self.channels

    @cached_property
    def source_bytes(self) -> np.ndarray:
        blocks = np.array_split(self.table["file"].to_numpy(), -(-len(self.table) // STAT_BLOCK))
        with ThreadPoolExecutor(N_STAT_THREADS) as pool:
            return np.concatenate(list(pool.map(_lengths, blocks)))

    def is_finished(self) -> bool:
        return self.is_begun and self.fault() is None and not len(self.pending())

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

    def pending(self) -> np.ndarray:
        """Rows neither decoded from the file as it is now, nor found unreadable as it is now."""
        done = np.load(self.directory / "sources.npy")
        known = read_quarantine(self.directory)["bytes"].reindex(self.table.index, fill_value=-1)
        return np.flatnonzero(((done == 0) | (done != self.source_bytes)) & (known != self.source_bytes))

    def run(self, quarantine: bool) -> None:
        if self.is_finished():  # by the process that held the lock before
            return
        if self.is_begun and (fault := self.fault()):
            self.clear(fault)
        self.check_room()
        self.create()
        failures = self.fill(self.pending())
        self.record(failures if quarantine else {})
        if failures and not quarantine:
            bad = [f"{self.table['file'].iloc[row]} ({reason})" for row, reason in sorted(failures.items())]
            raise UserError(
                f"{self.challenge} {self.split}: {len(bad):,} of {len(self.table):,} images cannot be read: "
                f"{listing(bad)}. "
                f"Replace the files and run again, or leave them out with: "
                f"cxrlt cache {self.challenge} --size {self.size} --quarantine"
            )

    def check_room(self) -> None:
        """Every image needs a byte per pixel and channel, less what an earlier attempt has already taken."""
        taken = np.count_nonzero(np.load(self.directory / "sources.npy")) if self.is_begun else 0
        require_room(
            self.directory / "images.npy",
            (len(self.table) - taken) * self.image_bytes,
            "Make room, choose a smaller --size, or put the cache on another disk with --cache-dir DIR.",
        )

    def create(self) -> None:
        """Empty arrays of the right shape; meta.json comes last and says that the others are whole."""
        if self.is_begun:
            return
        n = len(self.table)
        create_array(self.directory / "images.npy", np.uint8, (n, *self.image_shape))
        create_array(self.directory / "sources.npy", np.int64, (n,))
        write_csv(self.directory / "ids.csv", pd.DataFrame({"image_id": self.table.index}))
        write_json(
            self.directory / META,
            {
                "challenge": self.challenge,
                "split": self.split,
                "size": self.size,
                "n_images": n,
                "decoder": DECODERS[self.channels],
            },
        )

    def clear(self, fault: str) -> None:
        """Remove what is damaged; meta.json, which says that the others are whole, first."""
        print(f"{self.directory} is damaged ({fault}): it is built anew", file=sys.stderr, flush=True)
        for name in (META, "sources.npy", "images.npy", "ids.csv", "quarantine.csv"):
            (self.directory / name).unlink(missing_ok=True)

    def fill(self, pending: np.ndarray) -> dict[int, str]:
        """Decode the pending rows. Returns the reason for each row that cannot be read."""
        done = np.load(self.directory / "sources.npy")
        with writing_rows(self.directory / "sources.npy") as mark:
            for row in pending[done[pending] != 0]:  # of files that have been replaced
                mark(row, np.int64(0))
        first = np.linspace(0, len(pending) - 1, min(N_TIMED, len(pending))).astype(int)
        start = time.perf_counter()
        timed = decode_rows(*self.sources(pending[first]))
        if self.progress:
            self.announce(len(pending), (time.perf_counter() - start) / len(first))
        failures: dict[int, str] = {}
        quiet = None if self.progress else True
        with (
            tqdm(total=len(pending), desc="cache", unit="image", disable=quiet) as bar,
            writing_rows(self.directory / "sources.npy") as mark,
        ):
            for readable, failed in chain([timed], self.decode(np.delete(pending, first))):
                failures |= failed
                for row in readable:
                    mark(row, self.source_bytes[row])
                bar.update(len(readable) + len(failed))
        return failures

    def decode(self, rows: np.ndarray) -> Iterator[tuple[list[int], dict[int, str]]]:
        chunks = np.array_split(rows, -(-len(rows) // CHUNK)) if len(rows) else []
        workers = max(min(self.workers, len(chunks)), 1)
        return in_processes(
            (delayed(decode_rows)(*self.sources(chunk)) for chunk in chunks), workers, "decode"
        )

    def sources(self, rows: np.ndarray) -> tuple[Path, np.ndarray, list[str]]:
        return self.directory / "images.npy", rows, self.table["file"].iloc[rows].tolist()

    def announce(self, n_pending: int, seconds_each: float) -> None:
        seconds = seconds_each * n_pending / min(self.workers, cpu_count())
        print(
            f"{self.challenge} {self.split}: {n_pending:,} of {len(self.table):,} images to decode "
            f"at {self.size} px into {self.directory}: {n_pending * self.image_bytes / 1e9:.2f} GB, "
            + (f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"),
            file=sys.stderr,
            flush=True,
        )

    def record(self, failures: dict[int, str]) -> None:
        """Write quarantine.csv: what it held, less the rows that can be read by now, and `failures`."""
        old = read_quarantine(self.directory)
        readable = self.table.index[np.load(self.directory / "sources.npy") != 0]
        rows = sorted(failures)
        new = pd.DataFrame(
            {
                "path": self.table["file"].iloc[rows].astype(str).to_numpy(),
                "bytes": self.source_bytes[rows],
                "reason": [failures[row] for row in rows],
            },
            index=self.table.index[rows].rename("image_id"),
        )
        kept = old.drop(index=readable.union(new.index), errors="ignore")
        if len(old) or len(new):
            write_csv(self.directory / "quarantine.csv", pd.concat([kept, new]).reset_index())


def _lengths(files: Sequence[str]) -> np.ndarray:
    """Of each file in bytes, int64; 0 where there is none to be had."""
    lengths = np.zeros(len(files), np.int64)
    for place, file in enumerate(files):
        with suppress(OSError):  # decoding will tell the reason
            lengths[place] = Path(file).stat().st_size
    return lengths
