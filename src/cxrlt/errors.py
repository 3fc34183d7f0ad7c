"""The one exception a user is meant to see."""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: a clear sentence, no traceback, exit code 2.

    The sentence says what is wrong, where (file, row or id) and which command or flag mends it.
    """


def listing(items: Iterable[object], limit: int = 10) -> str:
    """'a, b, c … (12 in all)': the first `limit` items and, when some are left out, the count."""
    items = [str(item) for item in items]
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} … ({len(items)} in all)"
