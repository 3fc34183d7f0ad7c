"""Compute the metrics for model selection by their registered names."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from cxrlt.metrics.classification import count_predictions, metric_from_counts
from cxrlt.metrics.ranking import macro, ranking_values
from cxrlt.metrics.registry import METRICS


def macro_metrics(names: Sequence[str], targets: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Return the metrics `names` of (n, c) targets and scores; NaN if undefined for every class.

    Ranking metrics are means over classes with positives and negatives; for single-label tasks give softmax
    probabilities. Decision metrics need one-hot targets. Raises ValueError as `average_precision` or
    `count_predictions`.
    """
    ranked = [name for name in names if METRICS[name].kind == "ranking"]
    by_class = ranking_values(targets, scores, ranked) if ranked else {}
    values = {name: macro(by_class[name]) for name in ranked}
    if len(ranked) < len(names):
        counts = count_predictions(targets, scores)
        values |= {name: metric_from_counts(name, counts) for name in names if name not in by_class}
    return {name: float(values[name]) for name in names}


def macro_metric(name: str, targets: ArrayLike, scores: ArrayLike) -> float:
    """Return one metric of (n, c) targets and scores; see `macro_metrics`."""
    return macro_metrics([name], targets, scores)[name]
