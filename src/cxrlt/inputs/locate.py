"""Finding the image files of a table below the images folder."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.errors import UserError

LISTERS = 16
AT_A_TIME = 256
"""Folders that one of them lists before it takes the next ones."""


def locate_images(paths: pd.Series, images_dir: Path, folders: Iterable[str]) -> pd.Series:
    """The absolute path of every image file, None where there is none. Links are followed.

    `paths` are relative to a folder that one of the glob patterns `folders` matches below `images_dir`; the
    first match counts. Every folder is listed once, many at a time, which on network disks is far cheaper
    than asking for each of a hundred thousand files in each of twelve folders.
    """
    if not images_dir.is_dir():
        raise UserError(f"The images folder {images_dir} does not exist. Name the right one with --images.")
    relative = paths.to_numpy(object)
    files = np.full(len(relative), None, object)
    missing: Sequence[int] = range(len(relative))
    for folder in _matching(images_dir.absolute(), folders):
        parents = dict.fromkeys(relative[row].rpartition("/")[0] for row in missing)
        listings = _list_all(folder, list(parents))
        still_missing = []
        for row in missing:
            parent, _, name = relative[row].rpartition("/")
            start, names = listings[parent]
            if name in names:
                files[row] = start + name
            else:
                still_missing.append(row)
        missing = still_missing
    return pd.Series(files, paths.index, dtype=object)


def _matching(images_dir: Path, patterns: Iterable[str]) -> list[Path]:
    """Folders in the order of the patterns, each once."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        # Path.glob refuses "."
        matches = [images_dir] if pattern == "." else sorted(images_dir.glob(pattern))
        folders.update(dict.fromkeys(match for match in matches if match.is_dir()))
    return list(folders)


def _list_all(folder: Path, parents: Sequence[str]) -> dict[str, tuple[str, set[str]]]:
    """By parent, what paths of files in it start with, and the names of the files that are in it."""

    def list_some(first: int) -> list[tuple[str, set[str]]]:
        return [_file_names(str(folder / parent)) for parent in parents[first : first + AT_A_TIME]]

    with ThreadPoolExecutor(LISTERS) as pool:
        listings = pool.map(list_some, range(0, len(parents), AT_A_TIME))
        return dict(zip(parents, chain.from_iterable(listings), strict=True))


def _file_names(folder: str) -> tuple[str, set[str]]:
    start = folder.rstrip(os.sep) + os.sep  # the root has one already
    try:
        with os.scandir(folder) as entries:
            return start, {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return start, set()
