"""AP, AUROC and their bootstrap intervals: the one truth for every number the project prints.

Rows enter a ranking metric only through the steps between distinct scores of positives, so a class is
reduced to how many rows and how many positives each step holds. A bootstrap draw is a weight per cluster
(patient): with steps x clusters matrices kept sparse, a thousand draws are one matrix product and no sort.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.floating]
DRAWS_AT_ONCE = 32  # bounds the memory of a draw's counts: steps x 32 x 4 bytes per array


def average_precision(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Average precision of every class: (n, c) targets and scores -> (c,).

    Targets are 1, 0 or NaN (the row is left out for that class); scores are any numbers that rank. NaN for a
    class without positives. Equals scikit-learn's `average_precision_score`, ties included. Raises ValueError
    for other targets, unequal shapes, or a NaN score where the target is known.
    """
    return _per_class(average_precision_of, targets, scores)


def auroc(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Area under the ROC curve of every class: (n, c) targets and scores -> (c,).

    As `average_precision`; NaN for a class without positives or without negatives; ties count one half.
    """
    return _per_class(auroc_of, targets, scores)


def macro_metric(name: str, targets: ArrayLike, scores: ArrayLike) -> float:
    """The macro mean called `name`, "mAP" or "mAUROC", of (n, c) arrays."""
    return float(macro({"mAP": average_precision, "mAUROC": auroc}[name](targets, scores)))


def average_precision_of(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Average precision of one class whose rows (n,) are all annotated; NaN without positives."""
    found = np.sort(score[positive])
    if not len(found):
        return float("nan")
    n_found = len(found) - np.searchsorted(found, found)
    n_above = len(score) - np.searchsorted(np.sort(score), found)
    return float(np.mean(n_found / n_above))


def auroc_of(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of one class whose rows (n,) are all annotated; NaN without both values."""
    found, others = score[positive], np.sort(score[~positive])
    if not len(found) or not len(others):
        return float("nan")
    below, not_above = (np.searchsorted(others, found, side) for side in ("left", "right"))
    return float(np.mean(below + not_above) / 2 / len(others))


CLASS_METRICS = {"mAP": average_precision_of, "mAUROC": auroc_of}
"""What a challenge is judged by, class by class: (scores (n,), positives (n,)) -> one number."""


def macro(values: ArrayLike) -> Floats:
    """Mean over the last axis (classes), undefined (NaN) classes left out; NaN if none is defined."""
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


@dataclass(frozen=True)
class Interval:
    """A value, the ends of its interval, and how many draws were undefined and left out."""

    value: float
    low: float
    high: float
    n_left_out: int


@dataclass(frozen=True)
class Bootstrap:
    """Values (c,) and bootstrap draws (n_draws, c) of AP and AUROC per class; NaN where undefined."""

    ap: Floats
    auroc: Floats
    ap_draws: Floats
    auroc_draws: Floats


def bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """AP and AUROC per class, and their values when clusters (patients) are drawn with replacement.

    `clusters` (n,) holds one value per row. The draws depend on `seed`, `n_draws` and the clusters alone: two
    score matrices on the same rows meet the same draws, so their difference is a paired one. A draw without
    positives of a class is NaN there, and `macro` over it is the mean of the other classes.
    """
    targets, scores = _checked(targets, scores)
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if cluster.shape != (len(targets),):
        raise ValueError(f"clusters must hold one value per row: {cluster.shape} for {len(targets)} rows.")
    classes = [_Steps.of(targets[:, c], scores[:, c], cluster, len(names)) for c in range(targets.shape[1])]
    draws = np.full((2, n_draws, len(classes)), np.nan)
    start = 0
    for weights in _cluster_weights(len(names), n_draws, seed):
        stop = start + weights.shape[1]
        for c, steps in enumerate(classes):
            draws[:, start:stop, c] = steps.values(weights)
        start = stop
    return Bootstrap(average_precision(targets, scores), auroc(targets, scores), draws[0], draws[1])


def basic_interval(
    value: float, draws: Floats, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The basic (reflected) bootstrap interval: 2 value - quantiles of the draws, cut off at `bounds`.

    Drawing rows twice makes a ranking of few positives look better, so the draws lie above the value by about
    as much as the value lies above the truth; reflection corrects that where percentiles double it
    (Davison & Hinkley 1997, section 5.2). Undefined draws are left out and counted.
    """
    defined = draws[~np.isnan(draws)]
    n_left_out = len(draws) - len(defined)
    if np.isnan(value) or not len(defined):
        return Interval(float(value), np.nan, np.nan, n_left_out)
    low, high = 2 * value - np.quantile(defined, [(1 + level) / 2, (1 - level) / 2])
    low, high = np.clip([low, high], *bounds)
    return Interval(float(value), float(low), float(high), n_left_out)


@dataclass(frozen=True)
class Difference:
    """How far one score matrix is above another in macro mAP and macro mAUROC, on the same draws."""

    ap: Interval
    auroc: Interval


def paired_difference(a: Bootstrap, b: Bootstrap, level: float = 0.95) -> Difference:
    """`a` minus `b`, both from `bootstrap` with the same targets, clusters, n_draws and seed."""
    if a.ap_draws.shape != b.ap_draws.shape:
        raise ValueError(f"draws of different shapes: {a.ap_draws.shape} and {b.ap_draws.shape}.")

    def interval(values: Floats, draws: Floats) -> Interval:
        return basic_interval(float(macro(values)), macro(draws), level, bounds=(-1.0, 1.0))

    return Difference(
        interval(a.ap - b.ap, a.ap_draws - b.ap_draws),
        interval(a.auroc - b.auroc, a.auroc_draws - b.auroc_draws),
    )


@dataclass(frozen=True)
class _Steps:
    """One class as steps x clusters counts; step k holds the rows that rank k-th among positives' scores.

    `tied_step` lists the steps with negatives exactly at the positives' score, `tied` counts those negatives.
    """

    rows: csr_array
    positives: csr_array
    tied_step: NDArray[np.intp]
    tied: csr_array

    @classmethod
    def of(cls, target: Floats, score: Floats, cluster: NDArray[np.intp], n_clusters: int) -> "_Steps":
        known = ~np.isnan(target)
        positive, score, cluster = target[known] == 1, score[known], cluster[known]
        levels = np.unique(score[positive])
        step = len(levels) - np.searchsorted(levels, score, side="right")
        n_steps = len(levels) + 1  # the last one: negatives below every positive

        def count(chosen: NDArray[np.bool_], step: NDArray[np.intp], n: int) -> csr_array:
            ones = np.ones(chosen.sum(), np.float32)
            return csr_array((ones, (step[chosen], cluster[chosen])), shape=(n, n_clusters))

        tied = ~positive & np.isin(score, levels)
        tied_step, position = np.unique(step[tied], return_inverse=True)
        tie = np.zeros_like(step)
        tie[tied] = position
        return cls(
            count(np.ones_like(positive), step, n_steps),
            count(positive, step, n_steps),
            tied_step,
            count(tied, tie, len(tied_step)),
        )

    def values(self, weights: NDArray[np.float32]) -> Floats:
        """AP and AUROC (2, draws) under weights (clusters, draws): counts below 2^24, exact in float32."""
        positives = self.positives @ weights
        below = np.cumsum(self.rows @ weights, axis=0)
        found = np.cumsum(positives, axis=0)
        n_rows, n_positives = below[-1].astype(np.float64), found[-1].astype(np.float64)
        n_negatives = n_rows - n_positives
        precision = np.divide(found, below, out=np.zeros(below.shape), where=below > 0, dtype=np.float64)
        ap_sum = np.einsum("kd,kd->d", positives, precision)
        # pairs in the right order: negatives not yet passed when a positive is met, ties worth one half
        above = np.einsum("kd,kd->d", positives, n_negatives - (below - found))
        ties = np.einsum("kd,kd->d", positives[self.tied_step], (self.tied @ weights).astype(np.float64))
        return np.stack([_ratio(ap_sum, n_positives), _ratio(above + ties / 2, n_positives * n_negatives)])


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _per_class(
    metric: Callable[[Floats, NDArray[np.bool_]], float], targets: ArrayLike, scores: ArrayLike
) -> Floats:
    targets, scores = _checked(targets, scores)
    known = ~np.isnan(targets)
    columns = zip(targets.T, scores.T, known.T, strict=True)
    return np.array([metric(score[k], target[k] == 1) for target, score, k in columns], dtype=np.float64)


def _cluster_weights(n_clusters: int, n_draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each cluster is drawn, (n_clusters, draws) for at most DRAWS_AT_ONCE draws at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_draws, DRAWS_AT_ONCE):
        weights = np.empty((n_clusters, min(DRAWS_AT_ONCE, n_draws - start)), np.float32)
        for draw in range(weights.shape[1]):
            weights[:, draw] = np.bincount(rng.integers(n_clusters, size=n_clusters), minlength=n_clusters)
        yield weights


def _checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} must both be (rows, classes).")
    known = ~np.isnan(targets)
    if not np.isin(targets[known], (0.0, 1.0)).all():
        raise ValueError("targets must be 1, 0 or NaN (not annotated).")
    if np.isnan(scores[known]).any():
        raise ValueError("a row with a known target has no score (NaN).")
    return targets, scores
