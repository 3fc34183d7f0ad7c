"""Metrics and their bootstrap intervals: the one truth for every number the project prints.

`ranking` holds what ranks the rows of a class (AP, AUROC), `classification` what needs one class per row,
`calibration` what needs probabilities (local ECE, F1 at a threshold, log-loss).

A class whose known labels are all positive or all negative (`has_both_values`) has no AP, no AUROC and no
calibration figure: they are NaN, which `macro` leaves out.
"""

from cxrlt.metrics.classification import (
    CONFUSION_METRICS,
    ClassificationBootstrap,
    classification_bootstrap,
    count_rows,
)
from cxrlt.metrics.named import macro_metric, macro_metrics
from cxrlt.metrics.ranking import (
    Bootstrap,
    auroc,
    average_precision,
    bootstrap,
    has_both_values,
    macro,
    ranking_values,
)
from cxrlt.metrics.resampling import Drawn, Interval, basic_interval, paired_difference

__all__ = [
    "CONFUSION_METRICS",
    "Bootstrap",
    "ClassificationBootstrap",
    "Drawn",
    "Interval",
    "auroc",
    "average_precision",
    "basic_interval",
    "bootstrap",
    "classification_bootstrap",
    "count_rows",
    "has_both_values",
    "macro",
    "macro_metric",
    "macro_metrics",
    "paired_difference",
    "ranking_values",
]
