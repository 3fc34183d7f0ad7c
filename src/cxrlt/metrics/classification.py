"""Metrics of one class per row, all read off the table of true against predicted classes.

A row's prediction is the class of its highest score, so a set of rows is reduced to c x c counts. A bootstrap
draw is a weight per cluster (patient): with cells x clusters counts kept sparse, the tables of a thousand
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


def confusion(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """How often each class (rows) was predicted as each class (columns): (n, c) arrays -> (c, c) counts.

    Targets are one-hot; a row with a NaN in them is left out. The prediction is the class of the highest
    score, the first one where several are. Raises ValueError for rows that do not hold exactly one 1, unequal
    shapes, or a NaN score where the target is known.
    """
    targets, scores = checked(targets, scores)
    cell, n_classes = _cells(targets, scores)[0], targets.shape[1]
    return confusion_counts(cell // n_classes, cell % n_classes, n_classes)


def confusion_counts(true: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int) -> Floats:
    """The (c, c) counts of class numbers (n,)."""
    counts = np.bincount(true * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.float64)


def recall(counts: Floats) -> Floats:
    """Share of a class's rows that were found: (..., c, c) counts -> (..., c); NaN where there are none."""
    return ratio(_hits(counts), counts.sum(axis=-1))


def precision(counts: Floats) -> Floats:
    """Share of the rows given a class that have it: (..., c, c) counts -> (..., c).

    NaN for a class without rows; 0 for one with rows that is never predicted.
    """
    predicted = counts.sum(axis=-2)
    value = ratio(_hits(counts), np.maximum(predicted, 1))
    return np.where(counts.sum(axis=-1) > 0, value, np.nan)


def f1(counts: Floats) -> Floats:
    """Harmonic mean of precision and recall: (..., c, c) counts -> (..., c); NaN for a class without rows."""
    rows = counts.sum(axis=-1)
    value = ratio(2 * _hits(counts), rows + counts.sum(axis=-2))
    return np.where(rows > 0, value, np.nan)


def macro_f1(counts: Floats) -> Floats:
    """Mean F1 of the classes with rows: (..., c, c) counts -> (...)."""
    return macro(f1(counts))


def accuracy(counts: Floats) -> Floats:
    """Share of rows predicted right: (..., c, c) counts -> (...)."""
    return ratio(_hits(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def balanced_accuracy(counts: Floats) -> Floats:
    """Mean recall of the classes with rows: (..., c, c) counts -> (...)."""
    return macro(recall(counts))


def weighted_f1(counts: Floats) -> Floats:
    """Mean F1 weighted by the classes' rows: (..., c, c) counts -> (...)."""
    rows = counts.sum(axis=-1)
    return ratio((np.nan_to_num(f1(counts)) * rows).sum(axis=-1), rows.sum(axis=-1))


def quadratic_kappa(counts: Floats) -> Floats:
    """Cohen's kappa with squared distances between classes as weights: (..., c, c) counts -> (...).

    Distances are those of the columns, so it says something only where the order of the classes does, as the
    grades of a disease. NaN where only one class occurs, true and predicted.
    """
    place = np.arange(counts.shape[-1])
    distance = (place[:, None] - place[None, :]) ** 2.0
    observed = (counts * distance).sum(axis=(-2, -1))
    by_chance = np.einsum("...i,ij,...j->...", counts.sum(axis=-1), distance, counts.sum(axis=-2))
    return 1 - ratio(observed * counts.sum(axis=(-2, -1)), by_chance)


CONFUSION_METRICS: Mapping[str, Callable[[Floats], Floats]] = {
    "macro-F1": macro_f1,
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "weighted-F1": weighted_f1,
    "kappa": quadratic_kappa,
}
"""What a single-label challenge may be judged by: (..., c, c) counts -> (...)."""
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

    Arguments and errors as in `confusion`; clusters, their draws and their pairing as in `bootstrap`, with
    which the draws agree for the same clusters, n_draws and seed.
    """
    targets, scores = checked(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    cell, known = _cells(targets, scores)
    n_classes = targets.shape[1]
    shape = (n_classes**2, n_clusters)
    table = csr_array((np.ones(len(cell), np.float32), (cell, cluster[known])), shape=shape)
    draws = {name: np.empty(n_draws) for name in CONFUSION_METRICS}
    by_class = np.empty((3, n_draws, n_classes))
    start = 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        chunk = slice(start, start := start + weights.shape[1])
        counts = (table @ weights).T.reshape(-1, n_classes, n_classes).astype(np.float64)
        by_class[:, chunk] = precision(counts), recall(counts), f1(counts)
        for name, metric in CONFUSION_METRICS.items():
            draws[name][chunk] = metric(counts)
    counts = confusion_counts(cell // n_classes, cell % n_classes, n_classes)
    values = {name: float(metric(counts)) for name, metric in CONFUSION_METRICS.items()}
    return ClassificationBootstrap(values, draws, precision(counts), recall(counts), f1(counts), *by_class)


def _cells(targets: Floats, scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The cell true x c + predicted of every known row, and which rows (n,) are known."""
    known = ~np.isnan(targets).any(axis=1)
    if not (targets[known].sum(axis=1) == 1).all():
        raise ValueError("targets must be one-hot: exactly one 1 in every row that is annotated.")
    return targets[known].argmax(axis=1) * targets.shape[1] + scores[known].argmax(axis=1), known


def _hits(counts: Floats) -> Floats:
    return np.diagonal(counts, axis1=-2, axis2=-1)
