"""A folder that appears all at once, when everything in it is written."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrlt.errors import UserError
from cxrlt.system.locks import replacing


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends well, under `replacing`.

    It lies beside `folder` under a name that is new every time: the processes of a killed builder live on a
    little, and write where they were told to. What such ones left is removed before and after.
    """
    _remove_partial(folder)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():  # leaves in one step, for half of it would pass for the whole
            folder.rename(folder.with_name(f".{folder.name}.former.partial"))
        partial.rename(folder)
    finally:
        _remove_partial(folder)


def remove_leftovers_beside(folder: Path) -> None:
    """Remove what a killed process left beside a folder that is finished, where anything can be written."""
    patterns = (f".{folder.name}.*.partial", f".{folder.name}.holder.json", f"..{folder.name}.*.tmp")
    if any(path for pattern in patterns for path in folder.parent.glob(pattern)):
        with suppress(UserError, OSError), replacing(folder):
            _remove_partial(folder)


def _remove_partial(folder: Path) -> None:
    for left in sorted(folder.parent.glob(f".{folder.name}.*.partial")):
        gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
        left.rename(gone)  # so that nobody can write into it any more
        shutil.rmtree(gone, ignore_errors=True)
