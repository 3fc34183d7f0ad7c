"""Metrics of one class per row, all read off how often each class is true, predicted, and both.

A row's prediction is the class of its highest score, so a set of rows is reduced to three counts per class:
the table of true against predicted classes would have a million cells for a thousand classes. A bootstrap
draw is a weight per cluster (patient): with classes x clusters counts kept sparse, the counts of a thousand
draws are one matrix product.

A class without rows of its own has no recall and no F1 (NaN) and is left out of macro means. scikit-learn
counts such a class as 0 in macro F1 once it is predicted anywhere, so that a class nobody has lowers the
score; in everything else, and wherever every class occurs, the values are scikit-learn's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from cxrlt.metrics.ranking import checked, macro, ratio
from cxrlt.metrics.resampling import Drawn, Floats, cluster_codes, cluster_weights


@dataclass(frozen=True)
class Counts:
    """How many rows have each class, are given it, and both (..., c).

    `squared` (...) is the sum over rows of the squared distance between the columns of the two.
    """

    true: Floats
    predicted: Floats
    hits: Floats
    squared: Floats


def count_rows(targets: ArrayLike, scores: ArrayLike) -> Counts:
    """The counts of (n, c) targets and scores.

    Targets are one-hot; a row with a NaN in them is left out. The prediction is the class of the highest
    score, the first one where several are. Raises ValueError for rows that do not hold exactly one 1, unequal
    shapes, or a NaN score where the target is known.
    """
    targets, scores = checked(targets, scores)
    true, predicted, _ = _classes(targets, scores)
    return count_classes(true, predicted, targets.shape[1])


def count_classes(true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int) -> Counts:
    """The counts of class numbers (n,)."""
    parts = (true, predicted, true[true == predicted])
    by_class = (np.bincount(part, minlength=n_classes).astype(np.float64) for part in parts)
    return Counts(*by_class, ((true - predicted) ** 2.0).sum())


def recall(counts: Counts) -> Floats:
    """Share of a class's rows that were found (..., c); NaN where there are none."""
    return ratio(counts.hits, counts.true)


def precision(counts: Counts) -> Floats:
    """Share of the rows given a class that have it (..., c).

    NaN for a class without rows; 0 for one with rows that is never predicted.
    """
    value = ratio(counts.hits, np.maximum(counts.predicted, 1))
    return np.where(counts.true > 0, value, np.nan)


def f1(counts: Counts) -> Floats:
    """Harmonic mean of precision and recall (..., c); NaN for a class without rows."""
    value = ratio(2 * counts.hits, counts.true + counts.predicted)
    return np.where(counts.true > 0, value, np.nan)


def macro_f1(counts: Counts) -> Floats:
    """Mean F1 of the classes with rows (...)."""
    return macro(f1(counts))


def accuracy(counts: Counts) -> Floats:
    """Share of rows predicted right (...)."""
    return ratio(counts.hits.sum(axis=-1), counts.true.sum(axis=-1))


def balanced_accuracy(counts: Counts) -> Floats:
    """Mean recall of the classes with rows (...)."""
    return macro(recall(counts))


def weighted_f1(counts: Counts) -> Floats:
    """Mean F1 weighted by the classes' rows (...)."""
    weighted = np.nan_to_num(f1(counts)) * counts.true
    return ratio(weighted.sum(axis=-1), counts.true.sum(axis=-1))


def quadratic_kappa(counts: Counts) -> Floats:
    """Cohen's kappa with squared distances between classes as weights (...).

    Distances are those of the columns, so it says something only where the order of the classes does, as the
    grades of a disease. NaN where only one class occurs, true and predicted.
    """
    place = np.arange(counts.true.shape[-1])
    distance = (place[:, None] - place[None, :]) ** 2.0
    by_chance = ((counts.true @ distance) * counts.predicted).sum(axis=-1)
    return 1 - ratio(counts.squared * counts.true.sum(axis=-1), by_chance)


CONFUSION_METRICS: Mapping[str, Callable[[Counts], Floats]] = {
    "macro-F1": macro_f1,
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "weighted-F1": weighted_f1,
    "kappa": quadratic_kappa,
}
"""What a single-label challenge may be judged by: counts -> (...)."""
BOUNDS = {"kappa": (-1.0, 1.0)}


@dataclass(frozen=True)
class ClassificationBootstrap:
    """Values of all rows and of bootstrap draws; NaN where undefined.

    `values` and `draws` (n_draws,) have the names of CONFUSION_METRICS as keys; `precision`, `recall` and
    `f1` are (c,), their draws (n_draws, c).
    """

    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    precision: Floats
    recall: Floats
    f1: Floats
    precision_draws: Floats
    recall_draws: Floats
    f1_draws: Floats

    def drawn(self, metric: str) -> Drawn:
        """One of CONFUSION_METRICS, over all classes."""
        return Drawn(self.values[metric], self.draws[metric], BOUNDS.get(metric, (0.0, 1.0)))


def classification_bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> ClassificationBootstrap:
    """Every metric of one-hot targets (n, c), and its values when clusters are drawn with replacement.

    Arguments and errors as in `count_rows`; clusters, their draws and their pairing as in `bootstrap`, with
    which the draws agree for the same clusters, n_draws and seed.
    """
    targets, scores = checked(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    true, predicted, known = _classes(targets, scores)
    n_classes, cluster = targets.shape[1], cluster[known]
    right, lines = true == predicted, 3 * n_classes + 1  # those of Counts, one below the other
    line = np.concatenate([true, n_classes + predicted, 2 * n_classes + true[right]])
    line = np.append(line, np.full(len(true), lines - 1))
    value = np.append(np.ones(len(line) - len(true)), (true - predicted) ** 2.0)
    clusters_of = np.concatenate([cluster, cluster, cluster[right], cluster])
    table = csr_array((value, (line, clusters_of)), shape=(lines, n_clusters))
    draws = {name: np.empty(n_draws) for name in CONFUSION_METRICS}
    by_class = np.empty((3, n_draws, n_classes))
    start = 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        chunk = slice(start, start := start + weights.shape[1])
        sums = (table @ weights).T
        counts = Counts(*np.split(sums[:, :-1], 3, axis=1), sums[:, -1])
        by_class[:, chunk] = precision(counts), recall(counts), f1(counts)
        for name, metric in CONFUSION_METRICS.items():
            draws[name][chunk] = metric(counts)
    counts = count_classes(true, predicted, n_classes)
    values = {name: float(metric(counts)) for name, metric in CONFUSION_METRICS.items()}
    return ClassificationBootstrap(values, draws, precision(counts), recall(counts), f1(counts), *by_class)


def _classes(targets: Floats, scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """The true and the predicted class of every known row, and which rows (n,) are known."""
    known = ~np.isnan(targets).any(axis=1)
    if not (targets[known].sum(axis=1) == 1).all():
        raise ValueError("targets must be one-hot: exactly one 1 in every row that is annotated.")
    return targets[known].argmax(axis=1), scores[known].argmax(axis=1), known
