"""Metrics of probabilities: calibration error, F1 at a threshold, log loss.

The leaderboards of CXR-LT show an "mECE" without a public definition. Ours may differ, so its name is "local
ECE": per class, |mean probability - share of positives| over equal-width bins, weighted by rows.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from cxrlt.metrics.ranking import has_both_values, macro, ratio, validate_arrays
from cxrlt.metrics.registry import METRICS, metric
from cxrlt.metrics.resampling import BootstrapSamples, Floats, cluster_codes, cluster_weights

N_BINS = 15
"""Bins of the calibration error, as in Guo et al., ICML 2017."""
LOCAL_ECE, MF1, LOG_LOSS = "local ECE", "mF1@.5", "log-loss"
Bools = NDArray[np.bool_]


class ProbabilityMetric(Protocol):
    """A metric of one class that is a function of `n_sums` sums over its rows."""

    n_sums: int
    """Number of sums that the metric needs."""

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """Return pairs (number of the sum, addend), (n,) or scalar, of rows with labels and logits (n,)."""

    @staticmethod
    def from_sums(sums: Floats) -> Floats:
        """Return the metric (draws,) from sums (n_sums, draws); NaN where undefined."""


@metric(LOCAL_ECE, kind="probabilities", lower_is_better=True)
class LocalECE(ProbabilityMetric):
    """Calibration error. Bin b has probabilities in [b, b + 1) / N_BINS; the last one includes 1."""

    n_sums = N_BINS + 1

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """See `ProbabilityMetric.add`."""
        probability = expit(logit)
        bins = np.minimum((probability * N_BINS).astype(np.intp), N_BINS - 1)
        return [(bins, probability - positive), (N_BINS, 1.0)]

    @staticmethod
    def from_sums(sums: Floats) -> Floats:
        """See `ProbabilityMetric.from_sums`."""
        return ratio(np.abs(sums[:-1]).sum(axis=0), sums[-1])


@metric(MF1, kind="probabilities")
class F1AtHalf(ProbabilityMetric):
    """F1 at threshold 0.5: 0 without true positives, NaN without positives."""

    n_sums = 3

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """See `ProbabilityMetric.add`."""
        predicted = expit(logit) >= 0.5
        return [(0, positive), (1, predicted), (2, predicted & positive)]

    @staticmethod
    def from_sums(sums: Floats) -> Floats:
        """See `ProbabilityMetric.from_sums`."""
        positives, predicted, hits = sums
        return np.where(positives > 0, ratio(2 * hits, positives + predicted), np.nan)


@metric(LOG_LOSS, kind="probabilities", bounds=(0.0, np.inf), lower_is_better=True)
class LogLoss(ProbabilityMetric):
    """Log loss, from logits, so that it is finite even if a probability rounds to 0 or 1."""

    n_sums = 2

    @staticmethod
    def add(positive: Bools, logit: Floats) -> list[tuple[ArrayLike, ArrayLike]]:
        """See `ProbabilityMetric.add`."""
        return [(0, np.logaddexp(0, np.where(positive, -logit, logit))), (1, 1.0)]

    @staticmethod
    def from_sums(sums: Floats) -> Floats:
        """See `ProbabilityMetric.from_sums`."""
        return ratio(*sums)


def calibration_bootstrap(
    targets: ArrayLike, logits: ArrayLike, clusters: ArrayLike, n_draws: int = 1000, seed: int = 0
) -> Mapping[str, BootstrapSamples]:
    """Return the probability metrics of (n, c) targets and logits, means over classes, with bootstrap draws.

    Classes that lack positives or negatives are not in the means. Clusters (patients, (n,)) and draws are
    those of `bootstrap`, so differences on the same rows are paired. Raises ValueError as
    `average_precision`.
    """
    targets, logits = validate_arrays(targets, logits)
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
    """Return means over classes (metrics, draws) with cluster `weights` (clusters, draws)."""
    values = np.full((len(metrics), weights.shape[1], len(tables)), np.nan)
    ends = np.cumsum([each.n_sums for each in metrics.values()])
    for c, table in enumerate(tables):
        parts = np.split(table @ weights, ends[:-1])
        values[..., c] = [each.from_sums(part) for each, part in zip(metrics.values(), parts, strict=True)]
    return macro(values)


def _sums(
    metrics: Mapping[str, ProbabilityMetric],
    positive: Bools,
    logit: Floats,
    cluster: NDArray[np.intp],
    n_clusters: int,
) -> csr_array:
    """Return the addends of each cluster: (sums of all metrics, clusters)."""
    sum_numbers, values, first = [], [], 0
    for each in metrics.values():
        for number, value in each.add(positive, logit):
            sum_numbers.append(np.broadcast_to(first + np.asarray(number), len(logit)))
            values.append(np.broadcast_to(np.asarray(value, np.float64), len(logit)))
        first += each.n_sums
    entries = (np.concatenate(sum_numbers), np.tile(cluster, len(sum_numbers)))
    return csr_array((np.concatenate(values), entries), shape=(first, n_clusters))
