"""What a message must hold, however it is worded: the file, the rows, the counts and what is to be done."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cxrlt.errors import UserError


def says(message: object, *parts: object) -> None:
    """Every part is in the message, in any order, and none as a piece of a longer word or number."""
    missing = [part for part in parts if not _as_a_whole(str(part)).search(str(message))]
    assert not missing, f"{missing} not in: {message}"


@contextmanager
def refused(*parts: object, kind: type[UserError] = UserError) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """What is done within ends in a UserError that says all parts."""
    with pytest.raises(kind) as error:
        yield error
    says(error.value, *parts)


def _as_a_whole(part: str) -> re.Pattern[str]:
    before, after = (r"(?<!\w)" * part[:1].isalnum(), r"(?!\w)" * part[-1:].isalnum())
    return re.compile(before + re.escape(part) + after)
