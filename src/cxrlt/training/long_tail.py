"""Make the training rows of a fold long-tailed: data.long_tail of a recipe.

The exponential class counts of long-tailed CIFAR and of ISIC2019-LT: Cui et al., "Class-balanced loss based
on effective number of samples", CVPR 2019.
"""

from collections.abc import Sequence

import numpy as np

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.training.job import FoldJob


def long_tail_counts(counts: Sequence[int], ratio: float) -> list[int]:
    """Return how many rows each class keeps, in the order of `counts` (rows per class).

    With the classes sorted from most to fewest rows, class k of K keeps n_k = n_0 ratio^(-k / (K - 1)) rows,
    rounded down, but at least 1 and at most what it has. Classes without rows do not count in K.
    """
    order = [c for c in np.argsort(-np.asarray(counts), kind="stable").tolist() if counts[c]]
    kept = [0] * len(counts)
    for k, c in enumerate(order):
        wanted = counts[order[0]] / ratio ** (k / max(len(order) - 1, 1))
        kept[c] = min(counts[c], max(1, int(wanted)))
    return kept


def rows_left_out(targets: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Return which rows (n_rows,) a long tail leaves out, drawn at random: a function of the arguments only.

    `targets` (n_rows, n_classes) are one-hot; rows without a known class (NaN) stay.
    """
    positive = targets == 1
    kept = long_tail_counts(positive.sum(axis=0).tolist(), ratio)
    left_out = np.zeros(len(targets), dtype=bool)
    rng = np.random.default_rng(seed)
    for c, n_kept in enumerate(kept):
        left_out[rng.permutation(np.flatnonzero(positive[:, c]))[n_kept:]] = True
    return left_out


def require_single_label(challenge: Challenge) -> None:
    """Raise UserError for a multi-label task, where a row counts for several classes."""
    if challenge.task != "single_label":
        raise UserError(
            f"data.long_tail needs exactly one class per image, but {challenge.name} is multi-label: remove "
            "the field."
        )


def describe_long_tail(job: FoldJob) -> str:
    """Return the line of the training log with the rows of each class that are left."""
    counts = sorted(job.data.class_counts.items(), key=lambda item: -item[1])
    shown = listing([f"{name} {count:,}" for name, count in counts], len(counts))
    n_rows, n_left_out = len(job.data.train), int(job.data.long_tail_mask.sum())
    return (
        f"fold {job.run.fold}: data.long_tail {job.recipe.data.long_tail:g}: {n_rows:,} of "
        f"{n_rows + n_left_out:,} training rows: {shown}"
    )
