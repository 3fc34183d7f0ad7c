"""Sample the rows of an epoch and their order: a function of (seed, epoch) only."""

import numpy as np

from cxrlt.recipe import SamplingConfig


def row_weights(targets: np.ndarray, cfg: SamplingConfig) -> np.ndarray | None:
    """Return the sampling weight of each row with targets (n, c): float64 (n,), or None for uniform sampling.

    repeat_factor: r_i = max(1, max over the row's classes of sqrt(threshold / f_c)), at most `cap`; f_c is
    the share of positives among the rows with a known label (Gupta et al., LVIS, CVPR 2019).
    class_balanced: all classes have the same total weight, and all positive rows of a class have the same
    share of it; rows without positives count as one more class. NaN (unknown) is not a positive; soft labels
    count in part.
    """
    if cfg.kind == "uniform":
        return None
    known = ~np.isnan(targets)
    positive = np.where(known, targets, 0).astype(np.float64)
    totals = positive.sum(axis=0)
    has_positives = totals > 0
    if cfg.kind == "repeat_factor":
        share = totals[has_positives] / known.sum(axis=0)[has_positives]
        factor = np.clip(np.sqrt(cfg.threshold / share), 1, cfg.cap)
        return (1 + positive[:, has_positives] * (factor - 1)).max(axis=1, initial=1)
    weights = (positive[:, has_positives] / totals[has_positives]).sum(axis=1)
    none = 1 - positive.max(axis=1)
    return weights + none / none.sum() if none.any() else weights


def epoch_batches(
    n_rows: int, batch_size: int, seed: int, epoch: int, weights: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of an epoch: int64 arrays of at most `batch_size` draws, `n_rows` draws in total.

    A draw is row + n_rows * copy; copy is 0 for the first time that this epoch uses the row, then 1, 2, ….
    Without `weights` every row is used once. With weights (n_rows,), row i is used
    n_rows * weights_i / sum(weights) times, rounded up or down. Batch sizes differ by at most one: a very
    small last batch would be noise for BatchNorm and the optimiser.
    """
    rng = np.random.default_rng([seed, epoch])
    draws = rng.permutation(n_rows)
    if weights is not None:
        # in random order: in the order of the table it could always be the same one of a patient's two images
        draws = rng.permutation(_systematic_sample(draws, weights[draws], rng.random()))
    return np.array_split(draws, -(-n_rows // batch_size))


def _systematic_sample(rows: np.ndarray, weights: np.ndarray, start: float) -> np.ndarray:
    """Systematic sampling: n draws at equal steps along the cumulative weights, from `start` in [0, 1)."""
    n = len(rows)
    ends = np.cumsum(weights) * (n / weights.sum())
    ends[-1:] = n
    counts = np.diff(np.ceil(ends - start).astype(np.int64), prepend=0)
    copies = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts) + n * copies
