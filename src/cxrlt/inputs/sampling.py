"""Which rows an epoch draws, and in what order: a function of (seed, epoch) alone."""

import numpy as np

from cxrlt.recipe import SamplingConfig


def row_weights(targets: np.ndarray, cfg: SamplingConfig) -> np.ndarray | None:
    """How often rows with these targets (n, c), relative to one another, are drawn: (n,), or None for alike.

    repeat_factor: r_i = max(1, max over its classes of sqrt(threshold / f_c)), at most `cap`, where f_c is
    the share of positives among the rows whose label is known (Gupta et al., LVIS, CVPR 2019).
    class_balanced: every class alike, and within it every positive row alike; rows without any positive are
    a class of their own. Unknown labels (NaN) are no positives; of soft ones only their part counts.
    """
    if cfg.kind == "uniform":
        return None
    known = ~np.isnan(targets)
    positive = np.where(known, targets, 0).astype(np.float64)
    totals = positive.sum(axis=0)
    there = totals > 0
    if cfg.kind == "repeat_factor":
        share = totals[there] / known.sum(axis=0)[there]
        factor = np.clip(np.sqrt(cfg.threshold / share), 1, cfg.cap)
        return (1 + positive[:, there] * (factor - 1)).max(axis=1, initial=1)
    weights = (positive[:, there] / totals[there]).sum(axis=1)
    none = 1 - positive.max(axis=1)
    return weights + none / none.sum() if none.any() else weights


def epoch_batches(
    n_rows: int, batch_size: int, seed: int, epoch: int, weights: np.ndarray | None = None
) -> list[np.ndarray]:
    """An epoch of `n_rows` draws in the order of (seed, epoch), as batches of at most `batch_size`.

    A draw is an int64, row + n_rows * copy: copy k of a row is its (k + 1)th time in this epoch. Without
    `weights` every row comes once; with weights (n_rows,) row i comes n_rows weights_i / sum(weights) times,
    rounded up or down. Sizes differ by one at most: a tiny last batch would be noise to BatchNorm and to the
    optimiser.
    """
    rng = np.random.default_rng([seed, epoch])
    draws = rng.permutation(n_rows)
    if weights is not None:
        # along a random order, for tables have one: of a patient's two images it could be always the same
        draws = rng.permutation(_systematic(draws, weights[draws], rng.random()))
    return np.array_split(draws, -(-n_rows // batch_size))


def _systematic(rows: np.ndarray, weights: np.ndarray, start: float) -> np.ndarray:
    """As many draws as rows: those met by equal steps along the cumulated weights, from `start` in [0, 1)."""
    n = len(rows)
    ends = np.cumsum(weights) * (n / weights.sum())
    ends[-1:] = n
    counts = np.diff(np.ceil(ends - start).astype(np.int64), prepend=0)
    copies = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts) + n * copies
