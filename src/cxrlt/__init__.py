"""Long-tailed, multi-label chest X-ray classification, from radiographs to a valid submission."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrlt.results import Results

__version__ = "0.2.0"


def load(challenge: str, root: "Path | str" = ".") -> "Results":
    """Return table, folds and runs of a challenge, for notebooks: see `cxrlt.results.load`."""
    from cxrlt.results import load as load_results  # importing cxrlt stays fast

    return load_results(challenge, root)
