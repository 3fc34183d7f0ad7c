"""Every metric a challenge may be judged by, under the name the challenge gives it."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from cxrlt.metrics.classification import CONFUSION_METRICS, count_rows
from cxrlt.metrics.ranking import CLASS_METRICS, macro, ranking_values


def macro_metrics(names: Sequence[str], targets: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """The metrics `names` of (n, c) targets and scores, found together; NaN where no class defines one.

    "mAP" and "mAUROC" rank the rows class by class, and are means over the classes that have both values: for
    one class per row give softmax probabilities. The names of CONFUSION_METRICS need one-hot targets. Raises
    ValueError as `average_precision` or `count_rows`.
    """
    ranked, counted = ([n for n in names if n in known] for known in (CLASS_METRICS, CONFUSION_METRICS))
    values = {}
    if ranked:
        by_class = ranking_values(targets, scores, ranked)
        values |= {name: float(macro(by_class[name])) for name in ranked}
    if counted:
        counts = count_rows(targets, scores)
        values |= {name: float(CONFUSION_METRICS[name](counts)) for name in counted}
    return {name: values[name] for name in names}


def macro_metric(name: str, targets: ArrayLike, scores: ArrayLike) -> float:
    """As `macro_metrics`, of one name."""
    return macro_metrics([name], targets, scores)[name]
