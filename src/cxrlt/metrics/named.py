"""Every metric that models may be compared by, under the name it is registered with."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from cxrlt.metrics.classification import count_rows, metric_of_counts
from cxrlt.metrics.ranking import macro, ranking_values
from cxrlt.metrics.registry import METRICS


def macro_metrics(names: Sequence[str], targets: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """The metrics `names` of (n, c) targets and scores, found together; NaN where no class defines one.

    Those that rank the rows class by class are means over the classes that have both values: for one class
    per row give softmax probabilities. Those of decisions need one-hot targets. Raises ValueError as
    `average_precision` or `count_rows`.
    """
    ranked = [name for name in names if METRICS[name].kind == "ranking"]
    by_class = ranking_values(targets, scores, ranked) if ranked else {}
    counts = count_rows(targets, scores) if len(ranked) < len(names) else None
    return {
        name: float(macro(by_class[name]) if name in by_class else metric_of_counts(name, counts))
        for name in names
    }


def macro_metric(name: str, targets: ArrayLike, scores: ArrayLike) -> float:
    """As `macro_metrics`, of one name."""
    return macro_metrics([name], targets, scores)[name]
