"""What probabilities mean beyond their order: calibration error, F1 at a threshold, log-loss.

The challenges' leaderboards show an "mECE" whose definition is not public. The one here is its own, hence
"local ECE": per class, |mean probability - share of positives| over equal-width bins, weighted by rows.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from cxrlt.metrics.ranking import checked, has_both_values, macro, ratio
from cxrlt.metrics.registry import METRICS, Metric, metric
from cxrlt.metrics.resampling import Drawn, Floats, cluster_codes, cluster_weights

N_BINS = 15
LOCAL_ECE, MF1, LOG_LOSS = "local ECE", "mF1@.5", "log-loss"
Bools = NDArray[np.bool_]


def class_ece(targets: ArrayLike, probabilities: ArrayLike, n_bins: int = N_BINS) -> Floats:
    """Local ECE of every class: (n, c) targets (1, 0, NaN = left out) and probabilities -> (c,).

    Bin b holds the probabilities in [b, b + 1) / n_bins, the last one 1 too. NaN for a class without both
    values. Raises ValueError as `average_precision`, and for probabilities outside 0 to 1.
    """
    columns = _columns(targets, probabilities)
    if any(len(p) and not 0 <= p.min() <= p.max() <= 1 for p, _ in columns):
        raise ValueError("probabilities must be between 0 and 1.")
    return np.array([_ece_of(p, positive, n_bins) if _both(positive) else np.nan for p, positive in columns])


def class_f1(targets: ArrayLike, scores: ArrayLike, threshold: float | ArrayLike = 0.5) -> Floats:
    """F1 of the rows whose score reaches `threshold` (one, or one per class): (n, c) arrays -> (c,).

    NaN for a class without both values; 0 where nothing is found. Raises ValueError as `average_precision`.
    """
    columns = _columns(targets, scores)
    thresholds = np.broadcast_to(np.asarray(threshold, np.float64), len(columns))
    return np.array(
        [
            _f1_of(score, positive, limit) if _both(positive) else np.nan
            for (score, positive), limit in zip(columns, thresholds, strict=True)
        ]
    )


def class_log_loss(targets: ArrayLike, logits: ArrayLike) -> Floats:
    """Mean -log of the probability given to what is true: (n, c) targets and logits -> (c,).

    Logits keep it finite where a probability would round to 0 or 1. NaN for a class without both values.
    """
    columns = _columns(targets, logits)
    return np.array([_losses(z, y).mean() if _both(y) else np.nan for z, y in columns])


class ProbabilityMetric(Protocol):
    """A metric of one class that follows from sums over its rows, of which a draw has some more often."""

    n_sums: int

    @staticmethod
    def values(targets: Floats, logits: Floats) -> Floats:
        """Of every class (c,) of (n, c) targets and logits, whose sigmoids are the probabilities."""

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """What each row (n,) adds: pairs of the number of a sum, below `n_sums`, and the value."""

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        """The metric (draws,) of sums (n_sums, draws), NaN where undefined."""


@metric(LOCAL_ECE, kind="probabilities", lower_is_better=True)
class LocalECE(ProbabilityMetric):
    n_sums = N_BINS + 1

    @staticmethod
    def values(targets: Floats, logits: Floats) -> Floats:
        return class_ece(targets, expit(logits))

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        probability = expit(logit)
        return [(_bins(probability, N_BINS), probability - positive), (N_BINS, 1.0)]

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        return ratio(np.abs(sums[:-1]).sum(axis=0), sums[-1])


@metric(MF1, kind="probabilities")
class F1AtHalf(ProbabilityMetric):
    """NaN in a draw without positives."""

    n_sums = 3

    @staticmethod
    def values(targets: Floats, logits: Floats) -> Floats:
        return class_f1(targets, expit(logits))

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        called = expit(logit) >= 0.5
        return [(0, positive), (1, called), (2, called & positive)]

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        positives, called, found = sums
        return np.where(positives > 0, ratio(2 * found, positives + called), np.nan)


@metric(LOG_LOSS, kind="probabilities", bounds=(0.0, np.inf), lower_is_better=True)
class LogLoss(ProbabilityMetric):
    n_sums = 2

    @staticmethod
    def values(targets: Floats, logits: Floats) -> Floats:
        return class_log_loss(targets, logits)

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        return [(0, _losses(logit, positive)), (1, 1.0)]

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        return ratio(*sums)


def calibration_bootstrap(
    targets: ArrayLike, logits: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Mapping[str, Drawn]:
    """The metrics of probabilities, of sigmoid(logits), as means over classes, each with its draws.

    Classes without both values are left out of the means. Clusters (patients) and their draws are those of
    `bootstrap`, so differences on the same rows are paired.
    """
    targets, logits = checked(targets, logits)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    known = ~np.isnan(targets)
    chosen = np.flatnonzero(has_both_values(targets))
    metrics = {name: entry for name, entry in METRICS.items() if entry.kind == "probabilities"}
    ends = np.cumsum([entry.definition.n_sums for entry in metrics.values()])
    tables = [
        _sums(metrics, targets[known[:, c], c] == 1, logits[known[:, c], c], cluster[known[:, c]], n_clusters)
        for c in chosen
    ]
    draws, start = np.full((len(metrics), n_draws, len(chosen)), np.nan), 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        stop = start + weights.shape[1]
        for c, table in enumerate(tables):
            parts = np.split(table @ weights, ends[:-1])
            for drawn, entry, sums in zip(draws, metrics.values(), parts, strict=True):
                drawn[start:stop, c] = entry.definition.of_sums(sums)
        start = stop
    return {
        name: Drawn(float(macro(entry.definition.values(targets, logits))), macro(drawn), entry.bounds)
        for (name, entry), drawn in zip(metrics.items(), draws, strict=True)
    }


def _sums(
    metrics: Mapping[str, Metric], positive: Bools, logit: Floats, cluster: NDArray[np.intp], n_clusters: int
) -> csr_array:
    """What each cluster adds to the metrics' sums, which lie one below the other."""
    lines, values, first = [], [], 0
    for entry in metrics.values():
        for number, value in entry.definition.add(positive, logit):
            lines.append(np.broadcast_to(first + np.asarray(number), len(logit)))
            values.append(np.broadcast_to(np.asarray(value, np.float64), len(logit)))
        first += entry.definition.n_sums
    entries = (np.concatenate(lines), np.tile(cluster, len(lines)))
    return csr_array((np.concatenate(values), entries), shape=(first, n_clusters))


def _columns(targets: ArrayLike, scores: ArrayLike) -> list[tuple[Floats, Bools]]:
    """Scores and positives of the known rows, class by class."""
    targets, scores = checked(targets, scores)
    known = ~np.isnan(targets)
    columns = zip(targets.T, scores.T, known.T, strict=True)
    return [(score[k], target[k] == 1) for target, score, k in columns]


def _both(positive: Bools) -> bool:
    return bool(positive.any() and not positive.all())


def _bins(probability: Floats, n_bins: int) -> NDArray[np.intp]:
    return np.minimum((probability * n_bins).astype(np.intp), n_bins - 1)


def _ece_of(probability: Floats, positive: Bools, n_bins: int) -> float:
    gaps = np.bincount(_bins(probability, n_bins), probability - positive, n_bins)
    return float(np.abs(gaps).sum() / len(positive))


def _f1_of(score: Floats, positive: Bools, threshold: float) -> float:
    called = score >= threshold
    return float(2 * (called & positive).sum() / (called.sum() + positive.sum()))


def _losses(logit: Floats, positive: Bools) -> Floats:
    return np.logaddexp(0, np.where(positive, -logit, logit))
