"""The one exception a user is meant to see."""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: a clear sentence, no traceback, exit code 2.

    The sentence says what is wrong, where (file, row or id) and which command or flag mends it.
    """


class MissingFileError(UserError):
    """A file that is simply not there, as a test table before the test phase."""


LONGEST_SHOWN = 80
"""Characters of a name or a cell that a sentence quotes."""
LONGEST_ITEM = 4 * LONGEST_SHOWN
"""The same of an item of a list, which may quote several."""


def shortened(text: object, limit: int = LONGEST_SHOWN) -> str:
    """The text as a sentence may quote it: on one line, no control characters, a long end left out."""
    text = str(text)
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return text if text.isprintable() else repr(text)[1:-1]


def quoted(text: object, limit: int = LONGEST_SHOWN) -> str:
    """As `shortened`, in the quotation marks of Python's repr."""
    text = repr(text)
    return text if len(text) <= limit else f"{text[: limit - 2]}…{text[-1]}"


def listing(items: Iterable[object], limit: int = 10) -> str:
    """'a, b, c … (12 in all)': the first `limit` items and, when some are left out, the count."""
    items = list(items)
    shown = ", ".join(shortened(item, LONGEST_ITEM) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} … ({len(items)} in all)"
