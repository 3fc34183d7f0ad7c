"""Hashes and stats of image files. A file is hashed again only if its stat has changed.

A stat is int64 (4,): size in bytes, mtime in ns, ctime in ns, inode; all zeros if the file does not exist. No
import of pandas, so that worker processes start fast.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxrlt.inputs.headers import read_file
from cxrlt.system.threads import map_in_threads

STAT_FIELDS = ("bytes", "mtime_ns", "ctime_ns", "inode")
HASH_BYTES = 32
"""Length of a SHA-256."""
STAT_BLOCK = 64
"""Files per task of a thread, for stats."""
HASH_BLOCK = 8
"""Files per task of a thread, for hashes. Ctrl-C has to wait for one task."""
MAX_INODE = 2**63 - 1
"""Some file systems have larger inode numbers than int64; their upper bits are dropped."""


class FileHash(NamedTuple):
    """A file's stat, taken before its bytes were read, and their SHA-256; None where they cannot be read."""

    stat: tuple[int, ...]
    sha256: bytes | None


def get_stat(file: str | None) -> tuple[int, ...]:
    """Return the four numbers of STAT_FIELDS; zeros if the file does not exist."""
    if file is None:
        return (0,) * len(STAT_FIELDS)
    try:
        stat = os.stat(file)  # noqa: PTH116  # 377,110 Path objects take seconds
    except OSError:  # reading the file reports the reason
        return (0,) * len(STAT_FIELDS)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino & MAX_INODE


def get_stats(files: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the stat of every file, in parallel: int64 (n, 4)."""
    with map_in_threads(get_stat, files, STAT_BLOCK) as stats:
        return np.fromiter(chain.from_iterable(stats), np.int64).reshape(-1, len(STAT_FIELDS))


def hash_files(files: Sequence[str]) -> AbstractContextManager[Iterator[FileHash]]:
    """Hash files in parallel: a context manager that gives an iterator over the results, in order."""
    return map_in_threads(_hash, files, HASH_BLOCK)


def to_hex(hashes: NDArray[np.uint8]) -> list[str]:
    """Convert hashes uint8 (n, 32) to n strings of 64 hexadecimal digits."""
    text, length = hashes.tobytes().hex(), 2 * HASH_BYTES
    return [text[at : at + length] for at in range(0, len(text), length)]


def _hash(file: str) -> FileHash:
    stat = get_stat(file)
    try:
        return FileHash(stat, hashlib.sha256(read_file(Path(file))).digest())
    except (OSError, ValueError):  # decoding the file reports the reason
        return FileHash(stat, None)
