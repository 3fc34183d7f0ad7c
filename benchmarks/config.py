"""Configuration of the benchmarks."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure at `scale` times the full size. `folder` is empty at the start and removed at the end."""

    folder: Path
    scale: float = 1.0

    def size(self, full: int, minimum: int = 1) -> int:
        """Return `scale` times `full`, at least `minimum`."""
        return max(round(full * self.scale), minimum)
