"""What a benchmark finds: one figure of ours, what it is measured against, and what bounds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """A figure to compare ours with, in the same unit: an alternative, or what nothing can pass."""

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` in `unit`, a rate unless `lower_is_better` (then seconds or bytes).

    `target` is for the ratio to `against`, or for `value` itself where there is no alternative. `limit` is
    what the stage could reach at most: its most expensive step alone. `wrong` tells how our result differs
    from the alternative's, and is empty where they are equal as they should be; `note` is anything a reader
    must know.
    """

    stage: str
    value: float
    unit: str
    against: Mark | None = None
    target: float | None = None
    limit: Mark | None = None
    lower_is_better: bool = False
    note: str = ""
    wrong: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the alternative's."""
        return self.value / self.against.value if self.against else None

    @property
    def reached(self) -> bool | None:
        """Whether the result is right and the target met; None without a target."""
        if self.wrong:
            return False
        if self.target is None:
            return None
        figure = self.value if self.ratio is None else self.ratio
        return figure <= self.target if self.lower_is_better else figure >= self.target

    @property
    def share_of_limit(self) -> float | None:
        """How close it comes to the limit: 1 is all the way."""
        if self.limit is None:
            return None
        return self.limit.value / self.value if self.lower_is_better else self.value / self.limit.value
