"""Which rows an epoch draws, and in what order: a function of (seed, epoch) alone."""

import numpy as np


def epoch_batches(
    n_rows: int, batch_size: int, seed: int, epoch: int, weights: np.ndarray | None = None
) -> list[np.ndarray]:
    """An epoch of `n_rows` draws in the order of (seed, epoch), as batches of at most `batch_size`.

    A draw is an int64, row + n_rows * copy: copy k of a row is its (k + 1)th time in this epoch. Without
    `weights` every row comes once. Sizes differ by one at most: a tiny last batch would be noise to
    BatchNorm and to the optimiser.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_rows)
    return np.array_split(order, -(-n_rows // batch_size))
