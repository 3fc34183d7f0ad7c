"""Write a folder atomically: it is renamed into place when all its files are written."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrlt.errors import UserError
from cxrlt.system.locks import lock_beside


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that replaces `folder` when the block ends without an error.

    Use it within `lock_beside(folder)`. The temporary folder is a sibling with a new random name: worker
    processes of a killed process live a little longer and still write into the old one. Temporary folders of
    killed processes are removed before and after.
    """
    _remove_partial(folder)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():  # renamed first, as a partly deleted folder would look complete
            folder.rename(folder.with_name(f".{folder.name}.former.partial"))
        partial.rename(folder)
    finally:
        _remove_partial(folder)


def remove_leftovers_beside(folder: Path) -> None:
    """Remove temporary files of killed processes beside a finished folder, if the disk is writable."""
    patterns = (f".{folder.name}.*.partial", f".{folder.name}.holder.json", f"..{folder.name}.*.tmp")
    if any(path for pattern in patterns for path in folder.parent.glob(pattern)):
        with suppress(UserError, OSError), lock_beside(folder):
            _remove_partial(folder)


def _remove_partial(folder: Path) -> None:
    for leftover in sorted(folder.parent.glob(f".{folder.name}.*.partial")):
        renamed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
        leftover.rename(renamed)  # so that no process can write into it any more
        shutil.rmtree(renamed, ignore_errors=True)
