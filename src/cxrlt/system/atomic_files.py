"""Files that are written whole or not at all."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrlt.errors import UserError

TEMPORARY = ".*.tmp"
"""What the files are called that a killed process was writing."""
FIXES = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room in your quota",
    errno.EFBIG: "Allow larger files there (ulimit -f)",
    errno.EROFS: "Name a folder that can be written to with --root",
    errno.EACCES: "Give yourself the right to it, or name another folder with --root,",
    errno.EPERM: "Give yourself the right to it, or name another folder with --root,",
    errno.EIO: "Check that disk",
    errno.ENOTDIR: "Move the file away that stands where a folder should be",
    errno.EEXIST: "Move the file away that stands where a folder should be",
    errno.EISDIR: "Move the folder away that stands where a file should be",
}
"""What fixes an error of a disk, by its number."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it, once its bytes are on disk, when the block ends well.

    A block that raises leaves nothing behind; a killed one leaves a file that `TEMPORARY` matches. Raises
    UserError where the disk does not take the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        temporary.replace(path)
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path | str, error: OSError, what: str = "written") -> str:
    """Why `path` could not be written (or `what`), that nothing is lost, and what fixes it."""
    fix = FIXES.get(error.errno, "Fix that")
    return (
        f"{path} cannot be {what}: {error.strerror or error}. What was finished before is kept. "
        f"{fix} and run the same command again."
    )


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_state(path: Path) -> tuple[int, ...] | None:
    """Size, times and inode of a file, by which a change to it is noticed; None if there is no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
