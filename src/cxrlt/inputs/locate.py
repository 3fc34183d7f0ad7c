"""Finding the image files of a table below the images folder."""

import os
import sys
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.errors import UserError, listing, quoted
from cxrlt.spelling import plain
from cxrlt.system.threads import in_threads

AT_A_TIME = 256
"""Folders that one thread lists before it takes the next ones."""


def locate_images(paths: pd.Series, images_dir: Path, folders: Iterable[str]) -> pd.Series:
    """The absolute path of every image file, None where there is none. Links are followed.

    `paths` are relative to a folder that one of the glob patterns `folders` matches below `images_dir`; the
    first match counts. Every folder is listed once, many at a time, which on network disks is far cheaper
    than asking for each of a hundred thousand files in each of twelve folders.

    A file whose name is written otherwise, as `plain` says, is found too if no other row names it, and that
    is said on stderr. Raises UserError where two files, or two rows, could be meant.
    """
    if not images_dir.is_dir():
        raise UserError(f"The images folder {images_dir} does not exist. Name the right one with --images.")
    relative = paths.to_numpy(object)
    files = np.full(len(relative), None, object)
    missing: Sequence[int] = range(len(relative))
    places = _matching(images_dir.absolute(), folders)
    for folder in places:
        parents = list(dict.fromkeys(relative[row].rpartition("/")[0] for row in missing))
        with in_threads(_file_names, [str(folder / parent) for parent in parents], AT_A_TIME) as found:
            listings = dict(zip(parents, found, strict=True))
        still_missing = []
        for row in missing:
            parent, _, name = relative[row].rpartition("/")
            start, names = listings[parent]
            if name in names:
                files[row] = start + name
            else:
                still_missing.append(row)
        missing = still_missing
    if missing:
        respelt = _respelt(dict.fromkeys(relative[missing]), images_dir, places, set(files))
        files[missing] = [respelt.get(path) for path in relative[missing]]
        if rows := [row for row in missing if files[row] is not None]:
            _say(relative[rows[0]], os.path.relpath(files[rows[0]], images_dir), len(rows))
    return pd.Series(files, paths.index, dtype=object)


def _say(path: str, file: str, count: int) -> None:
    """`count` rows are found under another spelling, one of them `path` in `file`."""
    print(
        f"{count:,} image{'s are' if count > 1 else ' is'} found under another spelling (case, slashes or "
        f"form of Unicode) than the table's, as {quoted(path)} in {quoted(file)}.",
        file=sys.stderr,
    )


def _respelt(
    paths: Collection[str], images_dir: Path, places: Iterable[Path], taken: Container[str]
) -> dict[str, str]:
    """The file of every one of `paths` that is there under another spelling and is not `taken`."""
    found: dict[str, list[str]] = {}
    for place in places:
        left = [path for path in paths if path not in found]
        for path, files in _other_spellings(left, place).items():
            if free := [file for file in files if file not in taken]:
                found[path] = free
    _require_one_each(found, images_dir)
    return {path: file for path, [file] in found.items()}


def _require_one_each(found: Mapping[str, Sequence[str]], images_dir: Path) -> None:
    """Raises UserError where a path fits two files, or two paths fit one."""
    paths_of = defaultdict(list)
    for path, files in found.items():
        for file in files:
            paths_of[file].append(path)
    several = [
        f"{quoted(path)} ({' or '.join(os.path.relpath(file, images_dir) for file in files)})"
        for path, files in found.items()
        if len(files) > 1
    ]
    several += [
        f"{' and '.join(map(quoted, paths))} ({os.path.relpath(file, images_dir)})"
        for file, paths in paths_of.items()
        if len(paths) > 1
    ]
    if several:
        raise UserError(
            f"{images_dir}: apart from case, slashes and form of Unicode, a path of the table fits two "
            f"files, or two paths fit one file: {listing(several)}. Write the paths as the files are "
            "called, or rename the files."
        )


def _other_spellings(paths: Iterable[str], folder: Path) -> dict[str, list[str]]:
    """Of those of `paths` that differ only in spelling from files below `folder`, those files."""
    parts = {path: tuple(plain(path).split("/")) for path in paths}
    at: dict[tuple[str, ...], list[str]] = {(): [str(folder)]}
    found, depth = {}, 0
    while at:
        spelt = _list_spellings(at)
        depth += 1
        for path, part in parts.items():
            if len(part) == depth and (files := spelt.get((*part, True))):
                found[path] = sorted(files)
        inner = {part[:depth] for part in parts.values() if len(part) > depth}
        at = {part: spelt[*part, False] for part in inner if (*part, False) in spelt}
    return found


def _list_spellings(
    folders: Mapping[tuple[str, ...], Sequence[str]],
) -> dict[tuple[str | bool, ...], list[str]]:
    """What is in `folders` (by the parts of their plain path): by its own parts and whether it is a file."""
    places = [(part, folder) for part, same in folders.items() for folder in same]
    found = defaultdict(list)
    with in_threads(_entries, [folder for _, folder in places], AT_A_TIME) as listings:
        for (part, _), entries in zip(places, listings, strict=True):
            for name, is_file, path in entries:
                found[*part, plain(name), is_file].append(path)
    return dict(found)


def _entries(folder: str) -> list[tuple[str, bool, str]]:
    """Name, whether it is a file, and path of what is in a folder; nothing of one that cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [(entry.name, entry.is_file(), entry.path) for entry in entries]
    return []


def _matching(images_dir: Path, patterns: Iterable[str]) -> list[Path]:
    """Folders in the order of the patterns, each once."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        # Path.glob refuses "."
        matches = [images_dir] if pattern == "." else sorted(images_dir.glob(pattern))
        folders.update(dict.fromkeys(match for match in matches if match.is_dir()))
    return list(folders)


def _file_names(folder: str) -> tuple[str, set[str]]:
    """What paths of files in a folder start with, and the names of the files that are in it."""
    start = folder.rstrip(os.sep) + os.sep  # the root has one already
    try:
        with os.scandir(folder) as entries:
            return start, {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return start, set()
