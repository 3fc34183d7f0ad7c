"""How cost grows with size: measured at n, 2n, 4n and 8n, and the exponent that fits."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.clock import race

STEPS = (1, 2, 4, 8)
LARGEST_EXPONENT = 1.15


@dataclass(frozen=True)
class Growth:
    """Seconds of a stage at every size, in `unit`s."""

    stage: str
    unit: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """k of cost ~ size^k, by least squares on logarithms."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def growth(
    stage: str,
    unit: str,
    smallest: int,
    prepare: Callable[[int], Callable[[], object]],
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.process_time,
) -> Growth:
    """Time `prepare(size)()` at each of STEPS times `smallest`; `prepare` itself is not timed."""
    sizes = tuple(smallest * step for step in STEPS)
    seconds = tuple(race(prepare(size), repeats=repeats, clock=clock)[0] for size in sizes)
    return Growth(stage, unit, sizes, seconds)
