"""AP and AUROC, which rank the rows of a class, and their bootstrap draws.

Rows enter a ranking metric only through the steps between distinct scores of positives, so a class is
reduced to how many rows and how many positives each step holds. A bootstrap draw is a weight per cluster
(patient): with steps x clusters matrices kept sparse, a thousand draws are one matrix product and no sort.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights

BLOCK, RUN = 2048, 16
"""Steps summed at once, so that what is made of them stays in a core's cache, and by one running sum."""


def average_precision(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Average precision of every class: (n, c) targets and scores -> (c,).

    Targets are 1, 0 or NaN (the row is left out for that class); scores are any numbers that rank. NaN for a
    class without both values (`has_both_values`); of the others it equals scikit-learn's
    `average_precision_score`, ties included. Raises ValueError for other targets, unequal shapes, or a NaN
    score where the target is known.
    """
    return ranking_values(targets, scores, ["mAP"])["mAP"]


def auroc(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Area under the ROC curve of every class: (n, c) targets and scores -> (c,).

    As `average_precision`; ties count one half.
    """
    return ranking_values(targets, scores, ["mAUROC"])["mAUROC"]


def has_both_values(targets: ArrayLike) -> NDArray[np.bool_]:
    """Which classes (c,) of (n, c) targets (1, 0, NaN) have positive and negative rows.

    The others are left out of every mean over classes: without a negative any ranking has an AP of 1, without
    a positive it has none.
    """
    targets = np.asarray(targets)
    return (targets == 1).any(axis=0) & (targets == 0).any(axis=0)


class RankingMetric(Protocol):
    """A metric of one class that depends on how its positives rank among all its rows.

    In a draw rows count as often as their cluster is drawn. The value is then made of a sum over the steps
    between the scores of positives, from the highest down; `add` gives it for some of the steps.
    """

    @staticmethod
    def value(found: Floats, ordered: Floats) -> float:
        """Of the scores of the positives and of all rows, both ascending; NaN without both values."""

    @staticmethod
    def add(positives: Floats, found: Floats, above: Floats) -> Floats:
        """The sum (draws,) over these steps (steps, draws).

        `positives` are those of the step; `found` and `above` the positives and the negatives with its score
        or a higher one.
        """

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        """The values (draws,), NaN where undefined.

        `total` is the sum over all steps, `tied` the pairs of a positive and a negative of equal score.
        """


@metric("mAP", kind="ranking", of_class="AP")
class AveragePrecision(RankingMetric):
    @staticmethod
    def value(found: Floats, ordered: Floats) -> float:
        if not 0 < len(found) < len(ordered):
            return float("nan")
        n_found = len(found) - np.searchsorted(found, found)
        n_above = len(ordered) - np.searchsorted(ordered, found)
        return float(np.mean(n_found / n_above))

    @staticmethod
    def add(positives: Floats, found: Floats, above: Floats) -> Floats:
        # where no row is drawn yet no positive is found: 0 / 1
        precision = np.divide(found, np.maximum(found + above, 1), dtype=np.float64)
        return np.einsum("kd,kd->d", positives, precision)

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        return np.where(n_negatives > 0, ratio(total, n_positives), np.nan)


@metric("mAUROC", kind="ranking", of_class="AUROC")
class AUROC(RankingMetric):
    """Ties count one half."""

    @staticmethod
    def value(found: Floats, ordered: Floats) -> float:
        n_positive, n_negative = len(found), len(ordered) - len(found)
        if not 0 < n_positive < len(ordered):
            return float("nan")
        twice = sum(int(np.searchsorted(ordered, found, side).sum()) for side in ("left", "right"))
        # a positive is above half of all positives on average, itself with one half: those pairs do not count
        return (twice - n_positive**2) / 2 / (n_positive * n_negative)

    @staticmethod
    def add(positives: Floats, found: Floats, above: Floats) -> Floats:
        """Pairs in the wrong order: negatives with a score as high as the positive's, or higher."""
        return np.einsum("kd,kd->d", positives, above, dtype=np.float64)

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        pairs = n_positives * n_negatives
        return ratio(pairs - (total - tied / 2), pairs)


def ranking_values(
    targets: ArrayLike, scores: ArrayLike, metrics: Iterable[str] | None = None
) -> dict[str, Floats]:
    """These ranking metrics, or all, each of every class (c,), with one sort per class for all of them.

    Arguments and errors as in `average_precision`.
    """
    targets, scores = _checked(targets, scores)
    values = {name: np.empty(targets.shape[1]) for name in metrics or _ranking_metrics()}
    columns = np.ascontiguousarray(scores.T)
    for c, (rows, score) in enumerate(zip(class_rows(targets), columns, strict=True)):
        found, ordered = rows.in_order(score)
        for name, value in values.items():
            value[c] = METRICS[name].definition.value(found, ordered)
    return values


def _ranking_metrics() -> dict[str, type[RankingMetric]]:
    return {name: entry.definition for name, entry in METRICS.items() if entry.kind == "ranking"}


@dataclass(frozen=True)
class ClassRows:
    """The annotated rows of one class, and where its positives are among them."""

    known: slice | NDArray[np.intp]
    positives: NDArray[np.intp]

    def in_order(self, score: Floats) -> tuple[Floats, Floats]:
        """Of scores (n,): those of the positives and of all annotated rows, both ascending."""
        score = score[self.known]
        return np.sort(score.take(self.positives)), np.sort(score)


def class_rows(targets: Floats) -> list[ClassRows]:
    """Of every class of (n, c) targets."""
    positive, known = (np.ascontiguousarray(mask.T) for mask in (targets == 1, ~np.isnan(targets)))
    classes = []
    for p, k in zip(positive, known, strict=True):
        # where every row is annotated, the usual case, no score need be copied
        rows = slice(None) if k.all() else np.flatnonzero(k)
        classes.append(ClassRows(rows, np.flatnonzero(p[rows])))
    return classes


def macro(values: ArrayLike) -> Floats:
    """Mean over the last axis (classes), undefined (NaN) classes left out; NaN if none is defined."""
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Numerator over denominator, NaN where that is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


@dataclass(frozen=True)
class Bootstrap:
    """What is drawn of one set of rows; NaN where undefined.

    `by_class` has values (c,) and draws (n_draws, c) of AP and the like; `overall` metrics of all classes.
    """

    by_class: Mapping[str, tuple[Floats, Floats]]
    overall: Mapping[str, BootstrapSamples] = field(default_factory=dict)

    def mean(self, metric: str, chosen: NDArray[np.bool_] | slice = slice(None)) -> BootstrapSamples:
        """A metric that is a mean over classes, over the `chosen` ones."""
        values, draws = self.by_class[METRICS[metric].of_class or metric]
        return BootstrapSamples(float(macro(values[chosen])), macro(draws[:, chosen]), METRICS[metric].bounds)


def bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """The ranking metrics per class, and their values when clusters (patients) are drawn with replacement.

    `clusters` (n,) holds one value per row. The draws depend on `seed`, `n_draws` and the clusters alone: two
    score matrices on the same rows meet the same draws, so their difference is a paired one. A draw without
    positives or without negatives of a class is NaN there, and `macro` over it is the mean of the other
    classes.
    """
    targets, scores = _checked(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    classes = [_Steps.of(targets[:, c], scores[:, c], cluster, n_clusters) for c in range(targets.shape[1])]
    metrics = _ranking_metrics()
    draws = np.full((len(metrics), n_draws, len(classes)), np.nan)
    start = 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        stop = start + weights.shape[1]
        for c, steps in enumerate(classes):
            draws[:, start:stop, c] = steps.values(weights, metrics.values())
        start = stop
    values = ranking_values(targets, scores)
    pairs = zip(metrics, draws, strict=True)
    return Bootstrap({METRICS[name].of_class or name: (values[name], drawn) for name, drawn in pairs})


@dataclass(frozen=True)
class _Steps:
    """One class as counts per cluster; step k holds the rows that rank k-th among positives' scores.

    Every step has two lines in `blocks`, its positives and its negatives. A block has BLOCK steps, the last
    one as many as are left, and empty ones that fill up its last RUN. Steps with negatives exactly at the
    positives' score have two lines in `tied`: their positives and those negatives.
    """

    blocks: tuple[csr_array, ...]
    tied: csr_array

    @classmethod
    def of(cls, target: Floats, score: Floats, cluster: NDArray[np.intp], n_clusters: int) -> "_Steps":
        known = ~np.isnan(target)
        positive, score, cluster = target[known] == 1, score[known], cluster[known]
        levels = np.unique(score[positive])
        n_passed = np.searchsorted(levels, score, side="right")
        step = len(levels) - n_passed  # the last one: negatives below every positive
        n_steps = (len(levels) // RUN + 1) * RUN

        def count(line: NDArray[np.intp], cluster: NDArray[np.intp], n_lines: int) -> csr_array:
            return csr_array((np.ones(len(line), np.float32), (line, cluster)), shape=(n_lines, n_clusters))

        counts = count(2 * step + ~positive, cluster, 2 * n_steps)
        at = np.flatnonzero(n_passed)
        at = at[levels[n_passed[at] - 1] == score[at]]  # all positives, and the negatives tied with one
        tied_step = np.unique(step[at[~positive[at]]])
        at = at[np.isin(step[at], tied_step)]
        line = 2 * np.searchsorted(tied_step, step[at]) + ~positive[at]
        tied = count(line, cluster[at], 2 * len(tied_step))
        return cls(tuple(counts[i : i + 2 * BLOCK] for i in range(0, 2 * n_steps, 2 * BLOCK)), tied)

    def values(self, weights: NDArray[np.float32], metrics: Collection[type[RankingMetric]]) -> Floats:
        """(metrics, draws) under weights (clusters, draws): counts below 2^24, exact in float32."""
        n_draws = weights.shape[1]
        passed, totals = np.zeros((2, n_draws), np.float32), np.zeros((len(metrics), n_draws))
        for block in self.blocks:
            counts = (block @ weights).reshape(-1, 2, n_draws)
            positives = counts[:, 0].copy()
            counts[0] += passed
            _accumulate(counts.reshape(-1, RUN, 2 * n_draws))
            for total, kind in zip(totals, metrics, strict=True):
                total += kind.add(positives, counts[:, 0], counts[:, 1])
            passed = counts[-1]
        pairs = (self.tied @ weights).reshape(-1, 2, n_draws)
        tied = np.einsum("kd,kd->d", pairs[:, 0], pairs[:, 1], dtype=np.float64)
        n_positives, n_negatives = passed.astype(np.float64)
        return np.stack(
            [m.draws(total, tied, n_positives, n_negatives) for m, total in zip(metrics, totals, strict=True)]
        )


def _accumulate(runs: NDArray[np.float32]) -> None:
    """Running sums over the first two axes of (runs, steps, draws), in place.

    Several times as fast as `cumsum` over an axis, which walks through memory draw by draw.
    """
    for step in range(1, runs.shape[1]):
        runs[:, step] += runs[:, step - 1]
    runs[1:] += np.cumsum(runs[:-1, -1], axis=0)[:, None]


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 (rows, classes). Raises ValueError as `average_precision`."""
    targets, scores = _checked(targets, scores)
    return targets, scores.astype(np.float64, copy=False)


def _checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """As `checked`, but scores in float32 stay so: they rank alike and are sorted twice as fast."""
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores)
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64, copy=False)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} must both be (rows, classes).")
    known = ~np.isnan(targets)
    if np.count_nonzero(targets == 1) + np.count_nonzero(targets == 0) != np.count_nonzero(known):
        raise ValueError("targets must be 1, 0 or NaN (not annotated).")
    if (np.isnan(scores) & known).any():
        raise ValueError("a row with a known target has no score (NaN).")
    return targets, scores
