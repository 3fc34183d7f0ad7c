"""What all benchmarks are told: how large, where, and on which device."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """`share` of the full sizes are measured; `folder` is empty and removed afterwards."""

    folder: Path
    share: float = 1.0

    def size(self, full: int, least: int = 1) -> int:
        """That share of `full`, and at least `least`."""
        return max(round(full * self.share), least)
