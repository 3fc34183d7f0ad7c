"""Errors for the user, and how they quote names and lists."""

from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: a clear sentence, no traceback, exit code 2.

    The sentence says what is wrong, where (file, row or id), and which command or flag fixes it.
    """


class MissingFileError(UserError):
    """A file that does not exist, for example a test table before the test phase."""


MAX_QUOTED_CHARS = 80
"""Longest quoted name or cell in a message."""
MAX_ITEM_CHARS = 4 * MAX_QUOTED_CHARS
"""Longest item of a list in a message; an item can quote several names."""


def shortened(text: object, limit: int = MAX_QUOTED_CHARS) -> str:
    """Return the text on one line, without control characters and cut to `limit` characters."""
    text = str(text)
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return text if text.isprintable() else repr(text)[1:-1]


def quoted(text: object, limit: int = MAX_QUOTED_CHARS) -> str:
    """Return the repr of the text, at most `limit` characters."""
    text = repr(text)
    return text if len(text) <= limit else f"{text[: limit - 2]}…{text[-1]}"


def listing(items: Iterable[object], limit: int = 10) -> str:
    """Return 'a, b, c … (12 in all)': the first `limit` items and, if there are more, their number."""
    items = list(items)
    shown = ", ".join(shortened(item, MAX_ITEM_CHARS) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} … ({len(items)} in all)"
