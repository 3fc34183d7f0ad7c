"""Finding the image files of a table below the images folder."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cxrlt.errors import UserError


def locate_images(paths: pd.Series, images_dir: Path, folders: Iterable[str]) -> pd.Series:
    """The absolute path of every image file, None where there is none. Links are followed.

    `paths` are relative to a folder that one of the glob patterns `folders` matches below `images_dir`; the
    first match counts. Every folder is listed once, which on network disks is far cheaper than asking for
    each of a hundred thousand files in each of twelve folders.
    """
    if not images_dir.is_dir():
        raise UserError(f"The images folder {images_dir} does not exist. Name the right one with --images.")
    found: dict[str, str] = {}
    missing = paths.unique().tolist()
    for folder in _matching(images_dir.absolute(), folders):
        listings: dict[str, set[str]] = {}
        still_missing = []
        for path in missing:
            parent, _, name = path.rpartition("/")
            if parent not in listings:
                listings[parent] = _file_names(folder / parent)
            if name in listings[parent]:
                found[path] = str(folder / path)
            else:
                still_missing.append(path)
        missing = still_missing
    return paths.map(found).astype(object)


def _matching(images_dir: Path, patterns: Iterable[str]) -> list[Path]:
    """Folders in the order of the patterns, each once."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        # Path.glob refuses "."
        matches = [images_dir] if pattern == "." else sorted(images_dir.glob(pattern))
        folders.update(dict.fromkeys(match for match in matches if match.is_dir()))
    return list(folders)


def _file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
