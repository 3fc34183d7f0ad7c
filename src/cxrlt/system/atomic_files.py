"""Write files atomically: completely, or not at all."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrlt.errors import UserError

TEMPORARY = ".*.tmp"
"""Glob pattern of the temporary files that a killed process leaves."""
FIXES = {
    errno.ENOSPC: "Free space on this disk",
    errno.EDQUOT: "Free space in your quota",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Set a writable folder with --root",
    errno.EACCES: "Change its permissions, or set another folder with --root,",
    errno.EPERM: "Change its permissions, or set another folder with --root,",
    errno.EIO: "Check this disk",
    errno.ENOTDIR: "Move the file that is in the place of a folder",
    errno.EEXIST: "Move the file that is in the place of a folder",
    errno.EISDIR: "Move the folder that is in the place of a file",
}
"""How to fix a disk error, by errno."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that replaces `path` when the block ends without an error.

    If the block raises, the temporary file is removed. If the process is killed, a file that matches
    `TEMPORARY` is left. Raises UserError if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # otherwise the renamed file may be empty after a power cut
        temporary.replace(path)
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path | str, error: OSError, what: str = "written") -> str:
    """Return the error message: why `path` cannot be written (or `what`), and how to fix it."""
    fix = FIXES.get(error.errno or 0, "Fix the cause")
    return (
        f"{path} cannot be {what}: {error.strerror or error}. Finished work is kept. "
        f"{fix} and run the same command again."
    )


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_state(path: Path) -> tuple[int, ...] | None:
    """Return size, mtime, ctime and inode, which change if a file changes; None if there is no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
