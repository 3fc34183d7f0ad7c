"""Ranking metrics per class, AP and AUROC, and their bootstrap draws.

A ranking metric depends only on the steps between distinct scores of positives, so each class is reduced to
the numbers of positives and negatives per step. A bootstrap draw is a weight per cluster (patient): with
sparse steps x clusters matrices, a thousand draws are one matrix product without sorting.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights

BLOCK_STEPS, RUN_STEPS = 2048, 16
"""Steps per matrix product, so that the result fits in the cache of a core; steps per running sum."""


def average_precision(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Return the average precision per class (c,) of (n, c) targets and scores.

    Targets are 1, 0 or NaN (the row is ignored for that class); scores are any numbers. NaN for a class that
    lacks positives or negatives (`has_both_values`), otherwise equal to `average_precision_score` of
    scikit-learn, also with ties. Raises ValueError for other targets, unequal shapes, or a NaN score with a
    known target.
    """
    return ranking_values(targets, scores, ["mAP"])["mAP"]


def auroc(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """Return the area under the ROC curve per class (c,) of (n, c) targets and scores.

    Arguments and errors as for `average_precision`; ties count one half.
    """
    return ranking_values(targets, scores, ["mAUROC"])["mAUROC"]


def has_both_values(targets: ArrayLike) -> NDArray[np.bool_]:
    """Return which classes (c,) of (n, c) targets (1, 0, NaN) have positives and negatives.

    Other classes are not in means over classes: without negatives every AP is 1, without positives it is
    undefined.
    """
    targets = np.asarray(targets)
    return (targets == 1).any(axis=0) & (targets == 0).any(axis=0)


class RankingMetric(Protocol):
    """A metric of one class that depends only on the ranks of its positives among its rows.

    In a bootstrap draw, a row counts as often as its cluster is drawn. The value comes from a sum over the
    steps between scores of positives, from the highest score down; `add` returns the sum over some of the
    steps.
    """

    @staticmethod
    def value(positives: Floats, ordered: Floats) -> float:
        """Return the metric from the scores of positives and of all rows, both ascending.

        NaN without positives or negatives.
        """

    @staticmethod
    def add(positives: Floats, tp: Floats, fp: Floats) -> Floats:
        """Return the sum (draws,) over these steps, from arrays (steps, draws).

        `positives`: positives of the step; `tp` and `fp`: positives and negatives with its score or a higher
        one.
        """

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        """Return the values (draws,), NaN where undefined.

        `total`: sum over all steps; `tied`: number of pairs of a positive and a negative with equal scores.
        """


@metric("mAP", kind="ranking", of_class="AP")
class AveragePrecision(RankingMetric):
    """Average precision, without interpolation."""

    @staticmethod
    def value(positives: Floats, ordered: Floats) -> float:
        """See `RankingMetric.value`."""
        if not 0 < len(positives) < len(ordered):
            return float("nan")
        tp = len(positives) - np.searchsorted(positives, positives)
        n_predicted = len(ordered) - np.searchsorted(ordered, positives)
        return float(np.mean(tp / n_predicted))

    @staticmethod
    def add(positives: Floats, tp: Floats, fp: Floats) -> Floats:
        """See `RankingMetric.add`."""
        # before the first drawn row: 0 / 1
        precision = np.divide(tp, np.maximum(tp + fp, 1), dtype=np.float64)
        return np.einsum("kd,kd->d", positives, precision)

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        """See `RankingMetric.draws`."""
        return np.where(n_negatives > 0, ratio(total, n_positives), np.nan)


@metric("mAUROC", kind="ranking", of_class="AUROC")
class AUROC(RankingMetric):
    """Area under the ROC curve; ties count one half."""

    @staticmethod
    def value(positives: Floats, ordered: Floats) -> float:
        """See `RankingMetric.value`."""
        n_positive, n_negative = len(positives), len(ordered) - len(positives)
        if not 0 < n_positive < len(ordered):
            return float("nan")
        twice = sum(int(np.searchsorted(ordered, positives, side).sum()) for side in ("left", "right"))
        # subtract the pairs of two positives: on average a positive is above half of them
        return (twice - n_positive**2) / 2 / (n_positive * n_negative)

    @staticmethod
    def add(positives: Floats, tp: Floats, fp: Floats) -> Floats:
        """Return the number of wrong pairs: negatives with the score of a positive or a higher one."""
        return np.einsum("kd,kd->d", positives, fp, dtype=np.float64)

    @staticmethod
    def draws(total: Floats, tied: Floats, n_positives: Floats, n_negatives: Floats) -> Floats:
        """See `RankingMetric.draws`."""
        pairs = n_positives * n_negatives
        return ratio(pairs - (total - tied / 2), pairs)


def ranking_values(
    targets: ArrayLike, scores: ArrayLike, metrics: Iterable[str] | None = None
) -> dict[str, Floats]:
    """Return these ranking metrics (default: all), each per class (c,), with one sort per class.

    Arguments and errors as for `average_precision`.
    """
    targets, scores = _validate_arrays(targets, scores)
    values: dict[str, Floats] = {name: np.empty(targets.shape[1]) for name in metrics or _ranking_metrics()}
    columns = np.ascontiguousarray(scores.T)
    for c, (rows, score) in enumerate(zip(class_rows(targets), columns, strict=True)):
        positives, ordered = rows.sorted_scores(score)
        for name, value in values.items():
            value[c] = METRICS[name].definition.value(positives, ordered)
    return values


def _ranking_metrics() -> dict[str, type[RankingMetric]]:
    return {name: entry.definition for name, entry in METRICS.items() if entry.kind == "ranking"}


@dataclass(frozen=True)
class ClassRows:
    """The annotated rows of one class: their row numbers, and the places of positives among them."""

    known: slice | NDArray[np.intp]
    positives: NDArray[np.intp]

    def sorted_scores(self, score: Floats) -> tuple[Floats, Floats]:
        """Return the scores (from scores (n,)) of positives and of all annotated rows, both ascending."""
        score = score[self.known]
        return np.sort(score.take(self.positives)), np.sort(score)


def class_rows(targets: Floats) -> list[ClassRows]:
    """Return the rows of every class of (n, c) targets."""
    positive, known = (np.ascontiguousarray(mask.T) for mask in (targets == 1, ~np.isnan(targets)))
    classes = []
    for p, k in zip(positive, known, strict=True):
        # usually every row is annotated: a slice does not copy the scores
        rows = slice(None) if k.all() else np.flatnonzero(k)
        classes.append(ClassRows(rows, np.flatnonzero(p[rows])))
    return classes


def macro(values: ArrayLike) -> Floats:
    """Return the mean over the last axis (classes), ignoring NaN; NaN if all are NaN."""
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return numerator / denominator in their shape, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of one set of rows with bootstrap draws; NaN where undefined.

    `by_class`: values (c,) and draws (n_draws, c) of metrics per class; `overall`: metrics over all classes.
    """

    by_class: Mapping[str, tuple[Floats, Floats]]
    overall: Mapping[str, BootstrapSamples] = field(default_factory=dict)

    def mean(self, metric: str, chosen: NDArray[np.bool_] | slice = slice(None)) -> BootstrapSamples:
        """Return a metric that is a mean over classes, here over the `chosen` classes (mask (c,))."""
        values, draws = self.by_class[METRICS[metric].of_class or metric]
        return BootstrapSamples(float(macro(values[chosen])), macro(draws[:, chosen]), METRICS[metric].bounds)


def bootstrap(
    targets: ArrayLike, scores: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """Return the ranking metrics per class of (n, c) targets and scores, with bootstrap draws of clusters.

    `clusters` (n,), for example patients, are drawn with replacement. The draws depend only on `seed`,
    `n_draws` and the clusters, so two models on the same rows have the same draws, and their difference is
    paired. A draw in which a class lacks positives or negatives is NaN for that class, and `macro` is then
    the mean of the other classes. Raises ValueError as `average_precision`, and for clusters of another
    length.
    """
    targets, scores = _validate_arrays(targets, scores)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    classes = [
        _Steps.from_scores(targets[:, c], scores[:, c], cluster, n_clusters) for c in range(targets.shape[1])
    ]
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
    """One class as counts per cluster and step; step k has the rows between two distinct scores of positives.

    Every step has two lines in `blocks`: its positives and its negatives. A block has BLOCK_STEPS steps; the
    last one has the rest, padded with empty steps to a multiple of RUN_STEPS. A step with negatives at the
    score of its positives also has two lines in `tied`: its positives and these negatives.
    """

    blocks: tuple[csr_array, ...]
    tied: csr_array

    @classmethod
    def from_scores(
        cls, target: Floats, score: Floats, cluster: NDArray[np.intp], n_clusters: int
    ) -> "_Steps":
        known = ~np.isnan(target)
        positive, score, cluster = target[known] == 1, score[known], cluster[known]
        levels = np.unique(score[positive])
        n_passed = np.searchsorted(levels, score, side="right")
        step = len(levels) - n_passed  # the last step: negatives below all positives
        n_steps = (len(levels) // RUN_STEPS + 1) * RUN_STEPS

        def count(line: NDArray[np.intp], cluster: NDArray[np.intp], n_lines: int) -> csr_array:
            return csr_array((np.ones(len(line), np.float32), (line, cluster)), shape=(n_lines, n_clusters))

        counts = count(2 * step + ~positive, cluster, 2 * n_steps)
        at = np.flatnonzero(n_passed)
        at = at[levels[n_passed[at] - 1] == score[at]]  # all positives, and negatives tied with one
        tied_step = np.unique(step[at[~positive[at]]])
        at = at[np.isin(step[at], tied_step)]
        line = 2 * np.searchsorted(tied_step, step[at]) + ~positive[at]
        tied = count(line, cluster[at], 2 * len(tied_step))
        return cls(
            tuple(counts[i : i + 2 * BLOCK_STEPS] for i in range(0, 2 * n_steps, 2 * BLOCK_STEPS)), tied
        )

    def values(self, weights: NDArray[np.float32], metrics: Collection[type[RankingMetric]]) -> Floats:
        """Return (metrics, draws) for weights (clusters, draws); counts below 2^24 are exact in float32."""
        n_draws = weights.shape[1]
        passed, totals = np.zeros((2, n_draws), np.float32), np.zeros((len(metrics), n_draws))
        for block in self.blocks:
            counts = (block @ weights).reshape(-1, 2, n_draws)
            positives = counts[:, 0].copy()
            counts[0] += passed
            _accumulate(counts.reshape(-1, RUN_STEPS, 2 * n_draws))
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
    """Compute running sums over the first two axes of (runs, steps, draws), in place.

    Several times faster than `cumsum` over an axis, which reads memory draw by draw.
    """
    for step in range(1, runs.shape[1]):
        runs[:, step] += runs[:, step - 1]
    runs[1:] += np.cumsum(runs[:-1, -1], axis=0)[:, None]


def validate_arrays(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64 (n, c). Raises ValueError as `average_precision`."""
    targets, scores = _validate_arrays(targets, scores)
    return targets, scores.astype(np.float64, copy=False)


def _validate_arrays(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Like `validate_arrays`, but keep float32 scores: same ranks, and twice as fast to sort."""
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores)
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64, copy=False)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} must both be (rows, classes).")
    known = ~np.isnan(targets)
    if np.count_nonzero(targets == 1) + np.count_nonzero(targets == 0) != np.count_nonzero(known):
        raise ValueError("targets must be 1, 0 or NaN (not annotated).")
    if (np.isnan(scores) & known).any():
        raise ValueError("a row with a known target has a NaN score.")
    return targets, scores
