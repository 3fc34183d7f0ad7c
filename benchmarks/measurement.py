"""The result of a benchmark: a measured value, a baseline and a limit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceValue:
    """A value to compare a measurement with, in the same unit: a baseline or a limit."""

    name: str
    value: float


@dataclass(frozen=True)
class Measurement:
    """One line of the table: `value` in `unit`, a rate unless `lower_is_better` (then seconds or bytes).

    `target`: of the ratio to `baseline`, or of `value` without a baseline. `limit`: what the stage can reach
    at most, measured as its most expensive step alone. `error`: how the result differs from the baseline's,
    empty if it does not. `note`: further conditions of the measurement.
    """

    stage: str
    value: float
    unit: str
    baseline: ReferenceValue | None = None
    target: float | None = None
    limit: ReferenceValue | None = None
    lower_is_better: bool = False
    note: str = ""
    error: str = ""

    @property
    def ratio(self) -> float | None:
        """Our value divided by the baseline's."""
        return self.value / self.baseline.value if self.baseline else None

    @property
    def meets_target(self) -> bool | None:
        """Whether the result is correct and the target is met; None without a target."""
        if self.error:
            return False
        if self.target is None:
            return None
        figure = self.value if self.ratio is None else self.ratio
        return figure <= self.target if self.lower_is_better else figure >= self.target

    @property
    def share_of_limit(self) -> float | None:
        """Our value as a share of the limit; 1 is the limit."""
        if self.limit is None:
            return None
        return self.limit.value / self.value if self.lower_is_better else self.value / self.limit.value
