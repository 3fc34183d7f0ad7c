"""Metrics for one class per row, computed from how often each class is true, predicted, and both.

The prediction of a row is the class with the highest score. All metrics need only three counts per class; a
confusion matrix of a thousand classes would have a million cells. A bootstrap draw is a weight per cluster
(patient): with sparse classes x clusters counts, the counts of a thousand draws are one matrix product.

A class without rows has no recall and no F1 (NaN) and is not in macro means. scikit-learn gives such a class
F1 0 if it is predicted for any row, so an absent class lowers macro F1. All other values are equal to
scikit-learn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from cxrlt.metrics.ranking import Bootstrap, macro, ratio, validate_arrays
from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights


@dataclass(frozen=True)
class Counts:
    """Numbers of rows per class (..., c): true, predicted, and both (hits).

    `squared` (...) is the sum over rows of the squared distance between true and predicted column.
    """

    true: Floats
    predicted: Floats
    hits: Floats
    squared: Floats


def count_predictions(targets: ArrayLike, scores: ArrayLike) -> Counts:
    """Return the counts of (n, c) targets and scores.

    Targets are one-hot; a row with a NaN is ignored. The prediction is the first class with the highest
    score. Raises ValueError for rows without exactly one 1, unequal shapes, or a NaN score with a known
    target.
    """
    targets, scores = validate_arrays(targets, scores)
    true, predicted, _ = _classes(targets, scores)
    return count_classes(true, predicted, targets.shape[1])


def count_classes(true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int) -> Counts:
    """Return the counts from true and predicted class numbers (n,)."""
    parts = (true, predicted, true[true == predicted])
    n_true, n_predicted, hits = (np.bincount(part, minlength=n_classes).astype(np.float64) for part in parts)
    return Counts(n_true, n_predicted, hits, ((true - predicted) ** 2.0).sum())


def recall(counts: Counts) -> Floats:
    """Return the share of rows of a class that are predicted (..., c); NaN for a class without rows."""
    return ratio(counts.hits, counts.true)


def precision(counts: Counts) -> Floats:
    """Return the share of predictions of a class that are right (..., c).

    NaN for a class without rows; 0 for a class with rows that is never predicted.
    """
    value = ratio(counts.hits, np.maximum(counts.predicted, 1))
    return np.where(counts.true > 0, value, np.nan)


@metric("macro-F1", kind="decisions", of_class="F1")
def f1(counts: Counts) -> Floats:
    """Return the harmonic mean of precision and recall (..., c); NaN for a class without rows."""
    value = ratio(2 * counts.hits, counts.true + counts.predicted)
    return np.where(counts.true > 0, value, np.nan)


@metric("accuracy", kind="decisions")
def accuracy(counts: Counts) -> Floats:
    """Return the share of right predictions (...)."""
    return ratio(counts.hits.sum(axis=-1), counts.true.sum(axis=-1))


@metric("balanced-accuracy", kind="decisions")
def balanced_accuracy(counts: Counts) -> Floats:
    """Return the mean recall of classes with rows (...)."""
    return macro(recall(counts))


@metric("weighted-F1", kind="decisions")
def weighted_f1(counts: Counts) -> Floats:
    """Return the mean F1, weighted by the number of rows per class (...)."""
    weighted = np.nan_to_num(f1(counts)) * counts.true
    return ratio(weighted.sum(axis=-1), counts.true.sum(axis=-1))


@metric("kappa", kind="decisions", bounds=(-1.0, 1.0))
def quadratic_kappa(counts: Counts) -> Floats:
    """Return Cohen's kappa with quadratic weights (...).

    Distances are between columns, so it is useful only for ordered classes, such as grades of a disease. NaN
    if only one class occurs, true and predicted.
    """
    column = np.arange(counts.true.shape[-1])
    distance = (column[:, None] - column[None, :]) ** 2.0
    by_chance = ((counts.true @ distance) * counts.predicted).sum(axis=-1)
    return 1 - ratio(counts.squared * counts.true.sum(axis=-1), by_chance)


def metric_from_counts(name: str, counts: Counts) -> Floats:
    """Return the decision metric `name` (...); for a metric per class, the mean over classes."""
    value = METRICS[name].definition(counts)
    return macro(value) if METRICS[name].of_class else value


def _decision_metrics() -> list[str]:
    return [name for name, entry in METRICS.items() if entry.kind == "decisions"]


def _all_values(counts: Counts) -> dict[str, Floats]:
    """Return values per class (..., c): F1, precision, recall; and all decision metrics (...)."""
    of_class = {METRICS[name].of_class: METRICS[name].definition for name in _decision_metrics()}
    values = {name: value(counts) for name, value in of_class.items() if name}
    values |= {"precision": precision(counts), "recall": recall(counts)}
    return values | {name: metric_from_counts(name, counts) for name in _decision_metrics()}


def classification_bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """Return every decision metric of one-hot targets (n, c) and scores (n, c), with bootstrap draws.

    Arguments and errors as in `count_predictions`; clusters (n,) as in `bootstrap`. Draws are the same as in
    `bootstrap` for the same clusters, n_draws and seed.
    """
    targets, scores = validate_arrays(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    true, predicted, known = _classes(targets, scores)
    n_classes = targets.shape[1]
    values = _all_values(count_classes(true, predicted, n_classes))
    draws = {name: np.empty((n_draws, *np.shape(value))) for name, value in values.items()}
    table, start = _count_table(true, predicted, n_classes, cluster[known], n_clusters), 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        chunk = slice(start, start := start + weights.shape[1])
        sums = (table @ weights).T
        n_true, n_predicted, hits = np.split(sums[:, :-1], 3, axis=1)
        for name, value in _all_values(Counts(n_true, n_predicted, hits, sums[:, -1])).items():
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
    """Return the addends of each cluster to the fields of Counts: (3 c + 1, clusters)."""
    is_hit, n_lines = true == predicted, 3 * n_classes + 1
    line = np.concatenate([true, n_classes + predicted, 2 * n_classes + true[is_hit]])
    line = np.append(line, np.full(len(true), n_lines - 1))
    value = np.append(np.ones(len(line) - len(true)), (true - predicted) ** 2.0)
    clusters_of = np.concatenate([cluster, cluster, cluster[is_hit], cluster])
    return csr_array((value, (line, clusters_of)), shape=(n_lines, n_clusters))


def _classes(targets: Floats, scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Return true and predicted class of every known row, and which rows (n,) are known."""
    known = ~np.asarray(np.isnan(targets).any(axis=1))
    if not (targets[known].sum(axis=1) == 1).all():
        raise ValueError("targets must be one-hot: exactly one 1 in every annotated row.")
    return targets[known].argmax(axis=1), scores[known].argmax(axis=1), known
