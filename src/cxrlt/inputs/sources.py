"""What tells image files apart: the hash of the bytes, and the stat that says when to hash again.

A stat is int64 (4,): length in bytes, time of the last change of the bytes and of the file's record in ns,
inode. All zeros stand for a file that is not there. Without pandas, for processes that should start fast.
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
from cxrlt.system.threads import in_threads

STAT = ("bytes", "mtime_ns", "ctime_ns", "inode")
HASH_BYTES = 32
STAT_BLOCK = 64
"""Files that one thread asks for at a time."""
HASH_BLOCK = 8
"""The same of files that are read whole: all that Ctrl-C has to wait for."""
LARGEST_INODE = 2**63 - 1
"""Some file systems number beyond what int64 holds: the lower bits are kept."""


class Hashed(NamedTuple):
    """A file's stat, taken before its bytes were read, and their SHA-256; None where they cannot be read."""

    stat: tuple[int, ...]
    sha256: bytes | None


def stat_of(file: str | None) -> tuple[int, ...]:
    """The four numbers of STAT; zeros where there is no file."""
    if file is None:
        return (0,) * len(STAT)
    try:
        about = os.stat(file)  # noqa: PTH116  # making paths of 377,110 texts takes seconds
    except OSError:  # reading will tell the reason
        return (0,) * len(STAT)
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino & LARGEST_INODE


def stats_of(files: Sequence[str | None]) -> NDArray[np.int64]:
    """int64 (n, 4), many files at a time."""
    with in_threads(stat_of, files, STAT_BLOCK) as stats:
        return np.fromiter(chain.from_iterable(stats), np.int64).reshape(-1, len(STAT))


def hashing(files: Sequence[str]) -> AbstractContextManager[Iterator[Hashed]]:
    """Every file as it is now, in order, many at a time."""
    return in_threads(_hash, files, HASH_BLOCK)


def hex_of(hashes: NDArray[np.uint8]) -> list[str]:
    """uint8 (n, 32) as n texts of 64 hexadecimal digits."""
    text, length = hashes.tobytes().hex(), 2 * HASH_BYTES
    return [text[at : at + length] for at in range(0, len(text), length)]


def _hash(file: str) -> Hashed:
    stat = stat_of(file)
    try:
        return Hashed(stat, hashlib.sha256(read_file(Path(file))).digest())
    except (OSError, ValueError):  # decoding will tell the reason
        return Hashed(stat, None)
