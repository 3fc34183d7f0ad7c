"""Patient-cluster bootstrap: the draws every metric shares, and the intervals made of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
DRAWS_AT_ONCE = 32  # bounds the memory of a draw's counts: steps x 32 x 4 bytes per array


@dataclass(frozen=True)
class Interval:
    """A value, the ends of its interval, and how many draws were undefined, which are left out."""

    value: float
    low: float
    high: float
    n_undefined: int


@dataclass(frozen=True)
class BootstrapSamples:
    """One metric of all rows, and of the rows of every bootstrap draw (n_draws,); NaN where undefined.

    `bounds` are the lowest and the highest value the metric can have.
    """

    value: float
    draws: Floats
    bounds: tuple[float, float] = (0.0, 1.0)

    def interval(self, level: float = 0.95) -> Interval:
        """As `basic_interval`."""
        return basic_interval(self.value, self.draws, level, self.bounds)


def basic_interval(
    value: float, draws: Floats, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The basic (reflected) bootstrap interval: 2 value - quantiles of the draws, cut off at `bounds`.

    Drawing rows twice makes a ranking of few positives look better, so the draws lie above the value by about
    as much as the value lies above the truth; reflection corrects that where percentiles double it
    (Davison & Hinkley 1997, section 5.2). Undefined draws are left out and counted.
    """
    defined = draws[~np.isnan(draws)]
    n_undefined = len(draws) - len(defined)
    if np.isnan(value) or not len(defined):
        return Interval(float(value), np.nan, np.nan, n_undefined)
    low, high = 2 * value - np.quantile(defined, [(1 + level) / 2, (1 - level) / 2])
    low, high = np.clip([low, high], *bounds)
    return Interval(float(value), float(low), float(high), n_undefined)


def paired_difference(a: BootstrapSamples, b: BootstrapSamples, level: float = 0.95) -> Interval:
    """`a` minus `b`: the same metric on the same rows, with the same clusters, n_draws and seed."""
    if a.draws.shape != b.draws.shape:
        raise ValueError(f"draws of different shapes: {a.draws.shape} and {b.draws.shape}.")
    span = a.bounds[1] - a.bounds[0]
    return basic_interval(a.value - b.value, a.draws - b.draws, level, bounds=(-span, span))


def cluster_codes(clusters: ArrayLike, n_rows: int) -> tuple[NDArray[np.intp], int]:
    """A number per row that is the same within a cluster, and how many clusters there are."""
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if codes.shape != (n_rows,):
        raise ValueError(f"clusters must hold one value per row: {codes.shape} for {n_rows} rows.")
    return codes, len(names)


def cluster_weights(n_clusters: int, n_draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each cluster is drawn, (n_clusters, draws) for at most DRAWS_AT_ONCE draws at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_draws, DRAWS_AT_ONCE):
        weights = np.empty((n_clusters, min(DRAWS_AT_ONCE, n_draws - start)), np.float32)
        for draw in range(weights.shape[1]):
            weights[:, draw] = np.bincount(rng.integers(n_clusters, size=n_clusters), minlength=n_clusters)
        yield weights
