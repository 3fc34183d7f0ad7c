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
from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights

N_BINS = 15
LOCAL_ECE, MF1, LOG_LOSS = "local ECE", "mF1@.5", "log-loss"
Bools = NDArray[np.bool_]


class ProbabilityMetric(Protocol):
    """A metric of one class that follows from `n_sums` sums over its rows."""

    n_sums: int

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """What the rows (n,) add, whose probabilities are sigmoid(logit): which sum, and how much."""

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        """The metric (draws,) of sums (n_sums, draws), NaN where undefined."""


@metric(LOCAL_ECE, kind="probabilities", lower_is_better=True)
class LocalECE(ProbabilityMetric):
    """Bin b holds the probabilities in [b, b + 1) / N_BINS, the last one 1 too."""

    n_sums = N_BINS + 1

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        probability = expit(logit)
        bins = np.minimum((probability * N_BINS).astype(np.intp), N_BINS - 1)
        return [(bins, probability - positive), (N_BINS, 1.0)]

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        return ratio(np.abs(sums[:-1]).sum(axis=0), sums[-1])


@metric(MF1, kind="probabilities")
class F1AtHalf(ProbabilityMetric):
    """0 where nothing is found, NaN without positives."""

    n_sums = 3

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
    """Logits keep it finite where a probability would round to 0 or 1."""

    n_sums = 2

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        return [(0, np.logaddexp(0, np.where(positive, -logit, logit))), (1, 1.0)]

    @staticmethod
    def of_sums(sums: Floats) -> Floats:
        return ratio(*sums)


def calibration_bootstrap(
    targets: ArrayLike, logits: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Mapping[str, BootstrapSamples]:
    """The metrics of probabilities, means over classes, of (n, c) targets and logits, each with its draws.

    Classes without both values are left out of the means. Clusters (patients) and their draws are those of
    `bootstrap`, so differences on the same rows are paired. Raises ValueError as `average_precision`.
    """
    targets, logits = checked(targets, logits)
    cluster, n_clusters = cluster_codes(clusters, len(targets))
    known, chosen = ~np.isnan(targets), np.flatnonzero(has_both_values(targets))
    metrics = {name: entry.definition for name, entry in METRICS.items() if entry.kind == "probabilities"}
    tables = [
        _sums(metrics, targets[known[:, c], c] == 1, logits[known[:, c], c], cluster[known[:, c]], n_clusters)
        for c in chosen
    ]
    values = _values(metrics, tables, np.ones((n_clusters, 1)))
    draws = [_values(metrics, tables, weights) for weights in cluster_weights(n_clusters, n_draws, seed)]
    return {
        name: BootstrapSamples(float(value[0]), drawn, METRICS[name].bounds)
        for name, value, drawn in zip(metrics, values, np.concatenate(draws, axis=1), strict=True)
    }


def _values(
    metrics: Mapping[str, ProbabilityMetric], tables: list[csr_array], weights: NDArray[np.floating]
) -> Floats:
    """The mean over classes (metrics, draws) where clusters count as `weights` (clusters, draws) say."""
    values = np.full((len(metrics), weights.shape[1], len(tables)), np.nan)
    ends = np.cumsum([each.n_sums for each in metrics.values()])
    for c, table in enumerate(tables):
        parts = np.split(table @ weights, ends[:-1])
        values[..., c] = [each.of_sums(part) for each, part in zip(metrics.values(), parts, strict=True)]
    return macro(values)


def _sums(
    metrics: Mapping[str, ProbabilityMetric],
    positive: Bools,
    logit: Floats,
    cluster: NDArray[np.intp],
    n_clusters: int,
) -> csr_array:
    """What each cluster adds to the metrics' sums, which lie one below the other."""
    lines, values, first = [], [], 0
    for each in metrics.values():
        for number, value in each.add(positive, logit):
            lines.append(np.broadcast_to(first + np.asarray(number), len(logit)))
            values.append(np.broadcast_to(np.asarray(value, np.float64), len(logit)))
        first += each.n_sums
    entries = (np.concatenate(lines), np.tile(cluster, len(lines)))
    return csr_array((np.concatenate(values), entries), shape=(first, n_clusters))
