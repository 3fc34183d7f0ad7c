"""Time at n, 2n, 4n and 8n, and the exponent of its growth."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import time_interleaved

SIZE_MULTIPLES = (1, 2, 4, 8)
MAX_EXPONENT = 1.15


@dataclass(frozen=True)
class ScalingResult:
    """Seconds of a stage at every size. `unit`: what the sizes count."""

    stage: str
    unit: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """The exponent k of time ~ size^k, from least squares on logarithms."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def measure_scaling(
    stage: str,
    unit: str,
    min_size: int,
    prepare: Callable[[int], Callable[[], object]],
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.process_time,
) -> ScalingResult:
    """Time `prepare(size)()` at each of STEPS times `min_size`; `prepare` itself is not timed."""
    sizes = tuple(min_size * step for step in SIZE_MULTIPLES)
    seconds = tuple(time_interleaved(prepare(size), repeats=repeats, clock=clock)[0] for size in sizes)
    return ScalingResult(stage, unit, sizes, seconds)
