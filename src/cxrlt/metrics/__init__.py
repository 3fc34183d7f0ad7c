"""Metrics and their bootstrap intervals, used for every number that the project reports.

`ranking` has ranking metrics per class (AP, AUROC), `classification` metrics for one class per row,
`calibration` metrics of probabilities (local ECE, F1 at a threshold, log loss). All modules of this package
are imported, so a definition with `@metric(...)` needs no other registration.

A class whose known labels are all positive or all negative (see `has_both_values`) has no AP, AUROC or
calibration metric: they are NaN, which `macro` ignores.
"""

from importlib import import_module
from pkgutil import iter_modules

from cxrlt.metrics.classification import classification_bootstrap, count_predictions
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
    "count_predictions",
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
