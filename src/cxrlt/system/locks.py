"""File locks: one process at a time in a folder. A lock is released when its process ends for any reason."""

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
BRIEF_SECONDS = 0.2
"""Wait this long for a lock before it counts as held: `is_locked` holds it for less than a millisecond."""


@contextmanager
def lock_folder(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `directory` (created if needed), and remove the temporary files of killed processes.

    Every writer of a shared folder must hold this lock. If another process has it, wait for it (`wait`) or
    raise UserError with its description. Do not nest locks of the same folder.
    """
    with _held(directory, directory / LOCK, directory / HOLDER, wait):
        for leftover in directory.glob(TEMPORARY):
            leftover.unlink(missing_ok=True)
        yield


@contextmanager
def lock_beside(directory: Path) -> Iterator[None]:
    """Lock a folder that is replaced by a rename: the lock file is beside the folder. Waits for the lock."""
    lock, holder = (directory.with_name(f".{directory.name}{name}") for name in (LOCK, HOLDER))
    with _held(directory, lock, holder, wait=True):
        yield


def is_locked(directory: Path) -> bool:
    """Return whether a process holds the lock of a folder, by taking the lock for a moment if it is free."""
    if not (directory / LOCK).is_file():
        return False
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a read-only disk
        return False
    lock.release()
    return False


def remove_leftovers(directory: Path, others: Sequence[Path] = ()) -> None:
    """Remove the temporary files of killed processes, and the files `others`, in a folder with finished work.

    Does nothing if another process has the lock or if the disk is read-only.
    """
    if others or (directory / HOLDER).exists() or any(directory.glob(TEMPORARY)):
        with suppress(UserError, OSError), lock_folder(directory):
            for path in others:
                path.unlink(missing_ok=True)


@contextmanager
def _held(directory: Path, path: Path, holder: Path, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=BRIEF_SECONDS)
    except Timeout as error:
        message = f"{directory} is in use by {_describe_holder(holder)}."
        if not wait:
            raise UserError(f"{message} Wait until it ends, or stop it, and run this again.") from error
        print(f"{message} Waiting until it ends.", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError:
        if os.access(path.parent, os.W_OK):
            raise
    try:
        if lock.is_locked:  # not locked: the disk is read-only, and finished work can still be read
            for leftover in holder.parent.glob(f".{holder.name}{TEMPORARY[1:]}"):
                leftover.unlink(missing_ok=True)
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
    for _ in range(20):  # a new holder may not have written its file yet
        try:
            found = json.loads(holder.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
        except (OSError, ValueError, KeyError):
            time.sleep(0.05)
    return "another process"
