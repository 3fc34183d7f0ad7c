"""Find the image files of a table below the images folder."""

import os
import sys
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.errors import UserError, listing, quoted
from cxrlt.spelling import normalise_spelling
from cxrlt.system.threads import map_in_threads

FOLDERS_PER_TASK = 256
"""Folders per task of a thread."""


def locate_images(paths: pd.Series, images_dir: Path, folders: Iterable[str]) -> pd.Series:
    """Return the absolute path of every image file, None if it is missing: index of `paths`.

    `paths` are relative to a folder below `images_dir` that matches one of the glob patterns `folders`; the
    first match counts. Links are followed. Every folder is listed once, many folders in parallel: on network
    disks this is much faster than to look up every file in every folder.

    A file whose path differs only in case, slashes or Unicode form (see `normalise_spelling`) is found too,
    unless another row names it, and a message on stderr says so. Raises UserError if the images folder does
    not exist, or if a path matches two such files or two paths match one file.
    """
    if not images_dir.is_dir():
        raise UserError(f"The images folder {images_dir} does not exist. Set the right folder with --images.")
    relative = paths.to_numpy(object)
    files = np.full(len(relative), None, object)
    missing: Sequence[int] = range(len(relative))
    matching_folders = _matching_folders(images_dir.absolute(), folders)
    for folder in matching_folders:
        parents = list(dict.fromkeys(relative[row].rpartition("/")[0] for row in missing))
        with map_in_threads(
            _file_names, [str(folder / parent) for parent in parents], FOLDERS_PER_TASK
        ) as found:
            listings = dict(zip(parents, found, strict=True))
        still_missing = []
        for row in missing:
            parent, _, name = relative[row].rpartition("/")
            prefix, names = listings[parent]
            if name in names:
                files[row] = prefix + name
            else:
                still_missing.append(row)
        missing = still_missing
    if missing:
        respelled = _find_other_spellings(
            dict.fromkeys(relative[missing]), images_dir, matching_folders, set(files)
        )
        files[missing] = [respelled.get(path) for path in relative[missing]]
        if rows := [row for row in missing if files[row] is not None]:
            _print_other_spellings(relative[rows[0]], os.path.relpath(files[rows[0]], images_dir), len(rows))
    return pd.Series(files, paths.index, dtype=object)


def _print_other_spellings(path: str, file: str, count: int) -> None:
    print(
        f"{count:,} image file{'s have' if count > 1 else ' has'} another spelling (case, slashes or Unicode "
        f"form) than the table, for example {quoted(path)} is {quoted(file)}.",
        file=sys.stderr,
    )


def _find_other_spellings(
    paths: Collection[str], images_dir: Path, folders: Iterable[Path], taken: Container[str]
) -> dict[str, str]:
    """Return the file by path, for paths that exist in another spelling, without the files in `taken`."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        remaining = [path for path in paths if path not in found]
        for path, files in _other_spellings_below(remaining, folder).items():
            if free := [file for file in files if file not in taken]:
                found[path] = free
    _require_one_to_one(found, images_dir)
    return {path: file for path, [file] in found.items()}


def _require_one_to_one(found: Mapping[str, Sequence[str]], images_dir: Path) -> None:
    """Raise UserError if a path matches two files, or two paths match one file."""
    paths_of = defaultdict(list)
    for path, files in found.items():
        for file in files:
            paths_of[file].append(path)
    ambiguous = [
        f"{quoted(path)} ({' or '.join(os.path.relpath(file, images_dir) for file in files)})"
        for path, files in found.items()
        if len(files) > 1
    ]
    ambiguous += [
        f"{' and '.join(map(quoted, paths))} ({os.path.relpath(file, images_dir)})"
        for file, paths in paths_of.items()
        if len(paths) > 1
    ]
    if ambiguous:
        raise UserError(
            f"{images_dir}: if case, slashes and Unicode form are ignored, a path of the table matches two "
            f"files, or two paths match one file: {listing(ambiguous)}. Write the paths as the files are "
            "named, or rename the files."
        )


def _other_spellings_below(paths: Iterable[str], folder: Path) -> dict[str, list[str]]:
    """Return, by path, the files below `folder` that differ from it only in spelling."""
    parts = {path: tuple(normalise_spelling(path).split("/")) for path in paths}
    level: dict[tuple[str, ...], list[str]] = {(): [str(folder)]}
    found, depth = {}, 0
    while level:
        entries = _list_entries(level)
        depth += 1
        for path, part in parts.items():
            if len(part) == depth and (files := entries.get((*part, True))):
                found[path] = sorted(files)
        subfolders = {part[:depth] for part in parts.values() if len(part) > depth}
        level = {part: entries[*part, False] for part in subfolders if (*part, False) in entries}
    return found


def _list_entries(
    folders: Mapping[tuple[str, ...], Sequence[str]],
) -> dict[tuple[str | bool, ...], list[str]]:
    """Return the paths of the entries of `folders`, by (*parts of the normalised path, whether it is a file).

    `folders` are given by the parts of their normalised path.
    """
    parts_and_folders = [(part, folder) for part, same in folders.items() for folder in same]
    found: dict[tuple[str | bool, ...], list[str]] = defaultdict(list)
    with map_in_threads(_entries, [folder for _, folder in parts_and_folders], FOLDERS_PER_TASK) as listings:
        for (part, _), entries in zip(parts_and_folders, listings, strict=True):
            for name, is_file, path in entries:
                found[*part, normalise_spelling(name), is_file].append(path)
    return dict(found)


def _entries(folder: str) -> list[tuple[str, bool, str]]:
    """Return (name, is_file, path) of the entries of a folder; nothing if it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [(entry.name, entry.is_file(), entry.path) for entry in entries]
    return []


def _matching_folders(images_dir: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the folders that match, in the order of the patterns, each once."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        # Path.glob refuses "."
        matches = [images_dir] if pattern == "." else sorted(images_dir.glob(pattern))
        folders.update(dict.fromkeys(match for match in matches if match.is_dir()))
    return list(folders)


def _file_names(folder: str) -> tuple[str, set[str]]:
    """Return the folder's path with a final separator, and the names of the files in it."""
    prefix = folder.rstrip(os.sep) + os.sep  # "/" already ends with one
    try:
        with os.scandir(folder) as entries:
            return prefix, {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return prefix, set()
