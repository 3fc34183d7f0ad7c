"""Cluster (patient) bootstrap: the draws that all metrics share, and their intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
CHUNK_DRAWS = 32
"""Draws per chunk: limits memory to steps x 32 x 4 bytes per array."""


@dataclass(frozen=True)
class Interval:
    """A value, the ends of its interval, and the number of undefined draws, which are not used."""

    value: float
    low: float
    high: float
    n_undefined: int


@dataclass(frozen=True)
class BootstrapSamples:
    """One metric of all rows, and of every bootstrap draw (n_draws,); NaN where undefined.

    `bounds` are the lowest and highest possible values of the metric.
    """

    value: float
    draws: Floats
    bounds: tuple[float, float] = (0.0, 1.0)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the interval; see `basic_interval`."""
        return basic_interval(self.value, self.draws, level, self.bounds)


def basic_interval(
    value: float, draws: Floats, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Return the basic bootstrap interval: 2 value - quantiles of draws (n_draws,), clipped to `bounds`.

    Repeated rows make a ranking with few positives look better, so draws are above the value by about as much
    as the value is above the truth. The basic interval corrects this bias, while percentile intervals double
    it (Davison & Hinkley 1997, section 5.2). Undefined draws are ignored and counted.
    """
    defined = draws[~np.isnan(draws)]
    n_undefined = len(draws) - len(defined)
    if np.isnan(value) or not len(defined):
        return Interval(float(value), np.nan, np.nan, n_undefined)
    low, high = 2 * value - np.quantile(defined, [(1 + level) / 2, (1 - level) / 2])
    low, high = np.clip([low, high], *bounds)
    return Interval(float(value), float(low), float(high), n_undefined)


def paired_difference(a: BootstrapSamples, b: BootstrapSamples, level: float = 0.95) -> Interval:
    """Return the interval of `a` minus `b`: the same metric, rows, clusters, n_draws and seed.

    Raises ValueError for different numbers of draws.
    """
    if a.draws.shape != b.draws.shape:
        raise ValueError(f"draws of different shapes: {a.draws.shape} and {b.draws.shape}.")
    span = a.bounds[1] - a.bounds[0]
    return basic_interval(a.value - b.value, a.draws - b.draws, level, bounds=(-span, span))


def cluster_codes(clusters: ArrayLike, n_rows: int) -> tuple[NDArray[np.intp], int]:
    """Return the cluster number of every row (n_rows,), and the number of clusters.

    Raises ValueError for clusters of another length.
    """
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if codes.shape != (n_rows,):
        raise ValueError(f"clusters must have one value per row: {codes.shape} for {n_rows} rows.")
    return codes, len(names)


def cluster_weights(n_clusters: int, n_draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield how often each cluster is drawn, (n_clusters, draws), at most CHUNK_DRAWS draws at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_draws, CHUNK_DRAWS):
        weights = np.empty((n_clusters, min(CHUNK_DRAWS, n_draws - start)), np.float32)
        for draw in range(weights.shape[1]):
            weights[:, draw] = np.bincount(rng.integers(n_clusters, size=n_clusters), minlength=n_clusters)
        yield weights
