"""One process at a time in a folder; whatever holds it is let go when its process ends, however it ends."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cxrlt.errors import UserError
from cxrlt.system.atomic_files import TEMPORARY, write_json

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def exclusive(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Work in `directory`, made if need be, alone; first remove what a killed process was writing in it.

    Everything that writes in a folder that others may write in holds it. Where another process does, waits
    for it or raises UserError saying which one that is. Not to be nested for one folder.
    """
    with _held(directory, directory / LOCK, directory / HOLDER, wait):
        for left in directory.glob(TEMPORARY):
            left.unlink(missing_ok=True)
        yield


@contextmanager
def replacing(directory: Path) -> Iterator[None]:
    """As `exclusive`, waiting, for a folder that is put in place by a rename: the lock lies beside it."""
    lock, holder = (directory.with_name(f".{directory.name}{name}") for name in (LOCK, HOLDER))
    with _held(directory, lock, holder, wait=True):
        yield


def remove_leftovers(directory: Path, left: Sequence[Path] = ()) -> None:
    """Remove what a killed process left in `directory`, for a stage that finds its work there finished.

    `left` are files to be removed beside those that it was writing. Not where another process is at work,
    nor where nothing can be written.
    """
    if left or (directory / HOLDER).exists() or any(directory.glob(TEMPORARY)):
        with suppress(UserError, OSError), exclusive(directory):
            for path in left:
                path.unlink(missing_ok=True)


@contextmanager
def _held(directory: Path, path: Path, holder: Path, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        sentence = f"{directory} is in use by {_describe_holder(holder)}."
        if not wait:
            raise UserError(f"{sentence} Wait for it to end, or end it, and run this again.") from error
        print(f"{sentence} Waiting for it to end.", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError:
        if os.access(path.parent, os.W_OK):
            raise
    try:
        if lock.is_locked:  # else nothing can be written, and finished work is all that anyone can find here
            for left in holder.parent.glob(f".{holder.name}{TEMPORARY[1:]}"):
                left.unlink(missing_ok=True)
            write_json(holder, _this_process())
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
            lock.release()


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(["cxrlt", *sys.argv[1:]]),
    }


def _describe_holder(holder: Path) -> str:
    for _ in range(20):  # one that has just begun has not said so yet
        try:
            found = json.loads(holder.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
        except (OSError, ValueError, KeyError):
            time.sleep(0.05)
    return "another process"
