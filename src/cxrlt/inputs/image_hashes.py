"""Hashes of the image files as they are now: taken from the caches, or computed if a file has changed."""

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
from cxrlt.inputs.cache import CHANNELS_OF_DECODER, find_caches, is_decoded, read_quarantine, real_path
from cxrlt.inputs.file_stats import STAT_FIELDS, FileHash, get_stats, hash_files, to_hex
from cxrlt.inputs.inverted import inverted_warning
from cxrlt.inputs.table import add_file_column
from cxrlt.system.locks import lock_folder
from cxrlt.system.resumable_array import writing_rows

NAME = "sha256"


@dataclass(frozen=True, eq=False)
class CachedHashes:
    """The hashes that caches have of a table's images.

    `files` are the paths. `hashes` (index image_id) are hexadecimal, None if the file's stat differs from the
    one in the cache or no cache has the image. `changed` (k,) are the rows whose stat differs.
    """

    files: pd.Series
    hashes: pd.Series
    changed: NDArray[np.int64]


def image_hashes(
    challenge: Challenge, workspace: Workspace, split: str, table: pd.DataFrame
) -> pd.Series | None:
    """Return the current SHA-256 of every image file, in hexadecimal: index image_id.

    A hash is None if no cache of the challenge has the image, or if the file does not exist. Returns None if
    there is no cache or no images folder. `table` (index image_id) has a column `path` or `file`.

    A file with the same stat as in a cache is not read. A file with another stat is hashed; if its bytes are
    unchanged, the cache gets the new stat (if it can be written).
    """
    found = cached_hashes(challenge, workspace, table)
    if found is None or not len(found.changed):
        return None if found is None else found.hashes
    print(
        f"{challenge.name} {split}: {len(found.changed):,} image files have changed since they were cached: "
        "hashing them again",
        file=sys.stderr,
        flush=True,
    )
    files = found.files.iloc[found.changed]
    with hash_files(files.tolist()) as results:
        current = list(tqdm(results, total=len(files), desc="hash", unit="image", leave=False, disable=None))
    hashes = found.hashes.copy()
    hashes.iloc[found.changed] = [file.sha256.hex() if file.sha256 else None for file in current]
    for directory, _, ids in _caches(challenge, workspace):
        _update_stats(directory, ids, files.index, current)
    return hashes


def cached_hashes(challenge: Challenge, workspace: Workspace, table: pd.DataFrame) -> CachedHashes | None:
    """Return the hashes that caches have of the images of `table` (index image_id); reads no image.

    None if there is no cache or no images folder.
    """
    caches = list(_caches(challenge, workspace))
    if not caches or not workspace.images_dir(challenge.name).is_dir():
        return None
    files = table["file"] if "file" in table else add_file_column(challenge, table, workspace)["file"]
    stats = get_stats([file if isinstance(file, str) else None for file in files])
    hashes = np.full(len(table), None, object)
    known = np.zeros(len(table), bool)
    for directory, _, ids in caches:
        cached_stats = np.load(directory / "sources.npy")
        cached = np.load(directory / "hashes.npy", mmap_mode="r")
        rows = ids.get_indexer(table.index)
        decoded = (rows >= 0) & is_decoded(cached_stats)[rows]
        same = decoded & (cached_stats[rows] == stats).all(axis=1)
        hashes[same] = to_hex(cached[rows[same]])
        known |= decoded
        for row, stat, sha256 in _unreadable(directory, table.index):
            known[row] = True
            if sha256 and (stat == stats[row]).all():
                hashes[row] = sha256
    changed = np.flatnonzero(known & pd.isna(hashes) & stats.any(axis=1))
    return CachedHashes(files, pd.Series(hashes, table.index, dtype=object, name=NAME), changed)


def inverted_warnings_from_caches(challenge: Challenge, workspace: Workspace) -> list[str]:
    """Return a warning for every split with inverted images, from its cache with the most images."""
    largest: dict[str, tuple[NDArray[np.uint8], pd.Index]] = {}
    for directory, meta, ids in _caches(challenge, workspace):
        done = is_decoded(np.load(directory / "sources.npy", mmap_mode="r"))
        split = meta["split"]
        if CHANNELS_OF_DECODER[meta["decoder"]] == 1 and (
            split not in largest or done.sum() > len(largest[split][1])
        ):
            largest[split] = np.load(directory / "thumbs.npy", mmap_mode="r")[done], ids[done]
    warnings = (inverted_warning(challenge.name, split, *found) for split, found in largest.items())
    return [warning for warning in warnings if warning]


def _caches(challenge: Challenge, workspace: Workspace) -> Iterator[tuple[Path, dict, pd.Index]]:
    """Yield folder, meta.json and ids of every cache of a challenge and its images folder."""
    images = real_path(workspace.images_dir(challenge.name))
    for directory, meta, ids in find_caches(workspace.cache_dir(), challenge.name):
        if meta["images"] == images:
            yield directory, meta, ids


def _unreadable(directory: Path, ids: pd.Index) -> Iterator[tuple[int, NDArray[np.int64], str]]:
    """Yield row in `ids`, stat (4,) and hash of the files that a cache could not decode."""
    quarantine = read_quarantine(directory)
    rows = ids.get_indexer(quarantine.index).tolist()
    for row, stat, sha256 in zip(
        rows, quarantine[list(STAT_FIELDS)].to_numpy(), quarantine["sha256"], strict=True
    ):
        if row >= 0:
            yield row, stat, sha256


def _update_stats(directory: Path, ids: pd.Index, images: pd.Index, current: Sequence[FileHash]) -> None:
    """Write the new stats of unchanged files to a cache, if the cache can be written."""
    rows = ids.get_indexer(images)
    with suppress(UserError, OSError), lock_folder(directory):
        cached = np.load(directory / "hashes.npy", mmap_mode="r")
        decoded = is_decoded(np.load(directory / "sources.npy"))
        with writing_rows(directory / "sources.npy") as write_stat:
            for row, (stat, sha256) in zip(rows.tolist(), current, strict=True):
                if row >= 0 and decoded[row] and cached[row].tobytes() == sha256:
                    write_stat(row, np.array(stat, np.int64))
