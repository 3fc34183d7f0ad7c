"""Every so manieth case of a test is in every run; the others only in `bash run.sh test --full`."""

from collections.abc import Iterable

import pytest


def thinned(cases: Iterable[object], every: int = 2, first: int = 0) -> list[object]:
    """Parameters of a test, of which those between are marked as full. Tuples are several parameters each."""
    return [
        case if number % every == first else pytest.param(*_values(case), marks=pytest.mark.full)
        for number, case in enumerate(cases)
    ]


def _values(case: object) -> tuple[object, ...]:
    return case if isinstance(case, tuple) else (case,)
