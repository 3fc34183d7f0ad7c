"""The content of every image as it is now: from what caches recorded, reading only what has changed."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.inputs.cache import CHANNELS, caches_of, is_done, read_quarantine, real_path
from cxrlt.inputs.inverted import inverted_sentence
from cxrlt.inputs.sources import STAT, Hashed, hashing, hex_of, stats_of
from cxrlt.inputs.table import with_files
from cxrlt.system.locks import exclusive
from cxrlt.system.resumable_array import writing_rows

NAME = "sha256"


@dataclass(frozen=True, eq=False)
class Recorded:
    """What caches know of a table's images.

    `hashes` are in hexadecimal where a file has the stat that a cache recorded, None elsewhere; `changed` are
    the rows that caches know under another stat only.
    """

    files: pd.Series
    hashes: pd.Series
    changed: NDArray[np.int64]


def pixel_hashes(
    challenge: Challenge, workspace: Workspace, split: str, table: pd.DataFrame
) -> pd.Series | None:
    """SHA-256 of every image file as it is now, in hexadecimal: index image_id; None where it is unknown.

    That is where no cache of the challenge and its images folder has the image, and where there is no file.
    `table` has columns `path` or `file`. Files with the stat that a cache recorded are not read. The others
    that a cache has are hashed, and their stat is renewed there if their bytes are the same and the cache can
    be written. None if there is no cache, or no images folder.
    """
    found = recorded_hashes(challenge, workspace, table)
    if found is None or not len(found.changed):
        return None if found is None else found.hashes
    print(
        f"{challenge.name} {split}: {len(found.changed):,} image files have changed since they were cached: "
        "they are hashed again",
        file=sys.stderr,
        flush=True,
    )
    files = found.files.iloc[found.changed]
    with hashing(files.tolist()) as looked_at:
        now = list(tqdm(looked_at, total=len(files), desc="hash", unit="image", leave=False, disable=None))
    hashes = found.hashes.copy()
    hashes.iloc[found.changed] = [one.sha256.hex() if one.sha256 else None for one in now]
    for directory, _, ids in _caches(challenge, workspace):
        _renew(directory, ids, files.index, now)
    return hashes


def recorded_hashes(challenge: Challenge, workspace: Workspace, table: pd.DataFrame) -> Recorded | None:
    """The same without reading or writing a file. None if there is no cache, or no images folder."""
    caches = list(_caches(challenge, workspace))
    if not caches or not workspace.images_dir(challenge.name).is_dir():
        return None
    files = table["file"] if "file" in table else with_files(challenge, table, workspace)["file"]
    stats = stats_of([file if isinstance(file, str) else None for file in files])
    hashes = np.full(len(table), None, object)
    known = np.zeros(len(table), bool)
    for directory, _, ids in caches:
        sources, theirs = np.load(directory / "sources.npy"), np.load(directory / "hashes.npy", mmap_mode="r")
        there = ids.get_indexer(table.index)
        decoded = (there >= 0) & is_done(sources)[there]
        same = decoded & (sources[there] == stats).all(axis=1)
        hashes[same] = hex_of(theirs[there[same]])
        known |= decoded
        for row, stat, sha256 in _unreadable(directory, table.index):
            known[row] = True
            if sha256 and (stat == stats[row]).all():
                hashes[row] = sha256
    changed = np.flatnonzero(known & pd.isna(hashes) & stats.any(axis=1))
    return Recorded(files, pd.Series(hashes, table.index, dtype=object, name=NAME), changed)


def inverted_in_caches(challenge: Challenge, workspace: Workspace) -> list[str]:
    """A sentence for every split of which cached images look inverted, from the cache of most of them."""
    largest: dict[str, tuple[NDArray[np.uint8], pd.Index]] = {}
    for directory, meta, ids in _caches(challenge, workspace):
        done = is_done(np.load(directory / "sources.npy", mmap_mode="r"))
        split = meta["split"]
        if CHANNELS[meta["decoder"]] == 1 and (split not in largest or done.sum() > len(largest[split][1])):
            largest[split] = np.load(directory / "thumbs.npy", mmap_mode="r")[done], ids[done]
    sentences = (inverted_sentence(challenge.name, split, *found) for split, found in largest.items())
    return [sentence for sentence in sentences if sentence]


def _caches(challenge: Challenge, workspace: Workspace) -> Iterator[tuple[Path, dict, pd.Index]]:
    """Folder, meta.json and ids of the caches of a challenge and its images folder."""
    images = real_path(workspace.images_dir(challenge.name))
    for directory, meta, ids in caches_of(workspace.cache_dir(), challenge.name):
        if meta["images"] == images:
            yield directory, meta, ids


def _unreadable(directory: Path, ids: pd.Index) -> Iterator[tuple[int, NDArray[np.int64], str]]:
    """Row among `ids`, stat and hash of the files that a cache could not decode."""
    quarantine = read_quarantine(directory)
    rows = ids.get_indexer(quarantine.index)
    for row, stat, sha256 in zip(rows, quarantine[list(STAT)].to_numpy(), quarantine["sha256"], strict=True):
        if row >= 0:
            yield row, stat, sha256


def _renew(directory: Path, ids: pd.Index, images: pd.Index, now: Sequence[Hashed]) -> None:
    """Record the stats of files that hold what a cache was made of, where it can be written."""
    there = ids.get_indexer(images)
    with suppress(UserError, OSError), exclusive(directory):
        known = np.load(directory / "hashes.npy", mmap_mode="r")
        done = is_done(np.load(directory / "sources.npy"))
        with writing_rows(directory / "sources.npy") as mark:
            for row, (stat, sha256) in zip(there.tolist(), now, strict=True):
                if row >= 0 and done[row] and known[row].tobytes() == sha256:
                    mark(row, np.array(stat, np.int64))
