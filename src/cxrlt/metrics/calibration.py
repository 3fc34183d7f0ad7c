"""What probabilities mean beyond their order: calibration error, F1 at a threshold, log-loss.

The challenges' leaderboards show an "mECE" whose definition is not public. The one here is its own, hence
"local ECE": per class, |mean probability - share of positives| over equal-width bins, weighted by rows.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from cxrlt.metrics.ranking import checked, has_both_values, macro, ratio
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


def calibration_bootstrap(
    targets: ArrayLike, logits: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Mapping[str, Drawn]:
    """Macro local ECE, F1 at a probability of .5 and log-loss of sigmoid(logits), each with its draws.

    Classes without both values are left out of the means. Clusters (patients) and their draws are those of
    `bootstrap`, so differences on the same rows are paired.
    """
    targets, logits = checked(targets, logits)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    known = ~np.isnan(targets)
    chosen = np.flatnonzero(has_both_values(targets))
    sums = [
        _sums(targets[known[:, c], c] == 1, logits[known[:, c], c], cluster[known[:, c]], n_clusters)
        for c in chosen
    ]
    draws, start = np.full((3, n_draws, len(chosen)), np.nan), 0
    for weights in cluster_weights(n_clusters, n_draws, seed):
        stop = start + weights.shape[1]
        for c, table in enumerate(sums):
            draws[:, start:stop, c] = _figures(table @ weights)
        start = stop
    probabilities = expit(logits)
    values = (
        class_ece(targets, probabilities),
        class_f1(targets, probabilities),
        class_log_loss(targets, logits),
    )
    bounds = ((0.0, 1.0), (0.0, 1.0), (0.0, np.inf))
    return {
        name: Drawn(float(macro(value)), macro(draw), bound)
        for name, value, draw, bound in zip((LOCAL_ECE, MF1, LOG_LOSS), values, draws, bounds, strict=True)
    }


def _sums(positive: Bools, logit: Floats, cluster: NDArray[np.intp], n_clusters: int) -> csr_array:
    """What `_figures` needs, per cluster: each bin's gaps, then rows, positives, called, found, losses."""
    probability = expit(logit)
    called, ones = probability >= 0.5, np.ones(len(logit))
    values = [probability - positive, ones, positive, called, called & positive, _losses(logit, positive)]
    kinds = [_bins(probability, N_BINS), *(np.full(len(logit), N_BINS + i) for i in range(5))]
    entries = (np.concatenate(kinds), np.tile(cluster, len(kinds)))
    return csr_array((np.concatenate(values).astype(np.float64), entries), shape=(N_BINS + 5, n_clusters))


def _figures(sums: Floats) -> Floats:
    """Local ECE, F1 and log-loss (3, draws) of one class; F1 is NaN in a draw without positives."""
    rows, positives, called, found, losses = sums[N_BINS:]
    f1 = np.where(positives > 0, ratio(2 * found, positives + called), np.nan)
    return np.stack([ratio(np.abs(sums[:N_BINS]).sum(axis=0), rows), f1, ratio(losses, rows)])


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
