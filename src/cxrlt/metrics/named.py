"""Every metric a challenge may be judged by, under the name the challenge gives it."""

from numpy.typing import ArrayLike

from cxrlt.metrics.classification import CONFUSION_METRICS, confusion
from cxrlt.metrics.ranking import auroc, average_precision, macro

RANKING_METRICS = {"mAP": average_precision, "mAUROC": auroc}


def macro_metric(name: str, targets: ArrayLike, scores: ArrayLike) -> float:
    """The metric `name` of (n, c) targets and scores; NaN if no class defines it.

    "mAP" and "mAUROC" rank the rows class by class: for one class per row give softmax probabilities. The
    names of CONFUSION_METRICS need one-hot targets. Raises ValueError as `average_precision` or `confusion`.
    """
    if name in RANKING_METRICS:
        return float(macro(RANKING_METRICS[name](targets, scores)))
    return float(CONFUSION_METRICS[name](confusion(targets, scores)))
