"""Checks that an error message has the file, rows, counts and fix, whatever its wording."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cxrlt.errors import UserError


def assert_mentions(message: object, *parts: object) -> None:
    """Assert that the message contains every part as a whole word or number, in any order."""
    missing = [part for part in parts if not _whole_word(str(part)).search(str(message))]
    assert not missing, f"{missing} not in: {message}"


@contextmanager
def raises_user_error(
    *parts: object, kind: type[UserError] = UserError
) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Assert that the block raises UserError and that the message contains all parts."""
    with pytest.raises(kind) as error:
        yield error
    assert_mentions(error.value, *parts)


def _whole_word(part: str) -> re.Pattern[str]:
    before, after = (r"(?<!\w)" * part[:1].isalnum(), r"(?!\w)" * part[-1:].isalnum())
    return re.compile(before + re.escape(part) + after)
