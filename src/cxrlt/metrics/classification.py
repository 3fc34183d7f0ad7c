"""Metrics of one class per row, all read off how often each class is true, predicted, and both.

A row's prediction is the class of its highest score, so a set of rows is reduced to three counts per class:
the table of true against predicted classes would have a million cells for a thousand classes. A bootstrap
draw is a weight per cluster (patient): with classes x clusters counts kept sparse, the counts of a thousand
draws are one matrix product.

A class without rows of its own has no recall and no F1 (NaN) and is left out of macro means. scikit-learn
counts such a class as 0 in macro F1 once it is predicted anywhere, so that a class nobody has lowers the
score; in everything else, and wherever every class occurs, the values are scikit-learn's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from cxrlt.metrics.ranking import Bootstrap, checked, macro, ratio
from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights


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


@metric("macro-F1", kind="decisions", of_class="F1")
def f1(counts: Counts) -> Floats:
    """Harmonic mean of precision and recall (..., c); NaN for a class without rows."""
    value = ratio(2 * counts.hits, counts.true + counts.predicted)
    return np.where(counts.true > 0, value, np.nan)


@metric("accuracy", kind="decisions")
def accuracy(counts: Counts) -> Floats:
    """Share of rows predicted right (...)."""
    return ratio(counts.hits.sum(axis=-1), counts.true.sum(axis=-1))


@metric("balanced-accuracy", kind="decisions")
def balanced_accuracy(counts: Counts) -> Floats:
    """Mean recall of the classes with rows (...)."""
    return macro(recall(counts))


@metric("weighted-F1", kind="decisions")
def weighted_f1(counts: Counts) -> Floats:
    """Mean F1 weighted by the classes' rows (...)."""
    weighted = np.nan_to_num(f1(counts)) * counts.true
    return ratio(weighted.sum(axis=-1), counts.true.sum(axis=-1))


@metric("kappa", kind="decisions", bounds=(-1.0, 1.0))
def quadratic_kappa(counts: Counts) -> Floats:
    """Cohen's kappa with squared distances between classes as weights (...).

    Distances are those of the columns, so it says something only where the order of the classes does, as the
    grades of a disease. NaN where only one class occurs, true and predicted.
    """
    place = np.arange(counts.true.shape[-1])
    distance = (place[:, None] - place[None, :]) ** 2.0
    by_chance = ((counts.true @ distance) * counts.predicted).sum(axis=-1)
    return 1 - ratio(counts.squared * counts.true.sum(axis=-1), by_chance)


def metric_of_counts(name: str, counts: Counts) -> Floats:
    """The metric of decisions called `name` (...); of one that exists per class, the mean over classes."""
    value = METRICS[name].definition(counts)
    return macro(value) if METRICS[name].of_class else value


def _decision_metrics() -> list[str]:
    return [name for name, entry in METRICS.items() if entry.kind == "decisions"]


def _figures(counts: Counts) -> dict[str, Floats]:
    """What the means are means of, precision and recall of every class (..., c), and every metric (...)."""
    of_class = {METRICS[name].of_class: METRICS[name].definition for name in _decision_metrics()}
    figures = {name: value(counts) for name, value in of_class.items() if name}
    figures |= {"precision": precision(counts), "recall": recall(counts)}
    return figures | {name: metric_of_counts(name, counts) for name in _decision_metrics()}


def classification_bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """Every metric of one-hot targets (n, c), and its values when clusters are drawn with replacement.

    Arguments and errors as in `count_rows`; clusters, their draws and their pairing as in `bootstrap`, with
    which the draws agree for the same clusters, n_draws and seed.
    """
    targets, scores = checked(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    true, predicted, known = _classes(targets, scores)
    n_classes = targets.shape[1]
    values = _figures(count_classes(true, predicted, n_classes))
    draws = {name: np.empty((n_draws, *np.shape(value))) for name, value in values.items()}
    table, start = _count_table(true, predicted, n_classes, cluster[known], n_clusters), 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        chunk = slice(start, start := start + weights.shape[1])
        sums = (table @ weights).T
        for name, value in _figures(Counts(*np.split(sums[:, :-1], 3, axis=1), sums[:, -1])).items():
            draws[name][chunk] = value
    overall = _decision_metrics()
    return Bootstrap(
        {name: (value, draws[name]) for name, value in values.items() if name not in overall},
        {name: BootstrapSamples(float(values[name]), draws[name], METRICS[name].bounds) for name in overall},
    )


def _count_table(
    true: NDArray[np.intp],
    predicted: NDArray[np.intp],
    n_classes: int,
    cluster: NDArray[np.intp],
    n_clusters: int,
) -> csr_array:
    """What each cluster adds to the fields of Counts, which lie one below the other."""
    right, lines = true == predicted, 3 * n_classes + 1
    line = np.concatenate([true, n_classes + predicted, 2 * n_classes + true[right]])
    line = np.append(line, np.full(len(true), lines - 1))
    value = np.append(np.ones(len(line) - len(true)), (true - predicted) ** 2.0)
    clusters_of = np.concatenate([cluster, cluster, cluster[right], cluster])
    return csr_array((value, (line, clusters_of)), shape=(lines, n_clusters))


def _classes(targets: Floats, scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """The true and the predicted class of every known row, and which rows (n,) are known."""
    known = ~np.isnan(targets).any(axis=1)
    if not (targets[known].sum(axis=1) == 1).all():
        raise ValueError("targets must be one-hot: exactly one 1 in every row that is annotated.")
    return targets[known].argmax(axis=1), scores[known].argmax(axis=1), known
