"""Metrics and their bootstrap intervals: the one truth for every number the project prints.

`ranking` holds what ranks the rows of a class (AP, AUROC), `classification` what needs one class per row,
`calibration` what needs probabilities (local ECE, F1 at a threshold, log-loss). Every module here is
imported: one that has a definition under `@metric(...)` needs no mention elsewhere.

A class whose known labels are all positive or all negative (`has_both_values`) has no AP, no AUROC and no
calibration figure: they are NaN, which `macro` leaves out.
"""

from importlib import import_module
from pkgutil import iter_modules

from cxrlt.metrics.classification import classification_bootstrap, count_rows
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
from cxrlt.metrics.registry import METRICS, Metric, class_means, metric, metric_names
from cxrlt.metrics.resampling import BootstrapSamples, Interval, basic_interval, paired_difference

__all__ = [
    "METRICS",
    "Bootstrap",
    "BootstrapSamples",
    "Interval",
    "Metric",
    "auroc",
    "average_precision",
    "basic_interval",
    "bootstrap",
    "class_means",
    "classification_bootstrap",
    "count_rows",
    "has_both_values",
    "macro",
    "macro_metric",
    "macro_metrics",
    "metric",
    "metric_names",
    "paired_difference",
    "ranking_values",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
