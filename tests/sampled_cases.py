"""Run only every n-th case of a test by default, and all cases in `bash run.sh test --full`."""

from collections.abc import Iterable

import pytest


def sample_cases(cases: Iterable[object], every: int = 2, first: int = 0) -> list[object]:
    """Return parameters of a test, where all except every n-th are marked as full.

    A tuple is several parameters.
    """
    return [
        case if number % every == first else pytest.param(*_values(case), marks=pytest.mark.full)
        for number, case in enumerate(cases)
    ]


def _values(case: object) -> tuple[object, ...]:
    return case if isinstance(case, tuple) else (case,)
