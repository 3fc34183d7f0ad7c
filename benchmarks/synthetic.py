"""Synthetic long-tailed labels, informative scores and patients."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SEPARATION = 1.2
"""Standard deviations between the mean scores of positives and negatives: an AUROC of about .8."""


def make_long_tailed(
    n: int, counts: Mapping[str, int], n_images: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return targets (n, c) of 1 and 0 with the class frequencies `counts` / `n_images`, and scores (n, c).

    Every class has at least one positive and one negative.
    """
    rng = np.random.default_rng(seed)
    rates = np.array(list(counts.values())) / n_images
    targets = (rng.random((n, len(rates))) < rates).astype(np.float64)
    targets[0], targets[1] = 1, 0
    return targets, make_logits(targets, rng)


def make_logits(targets: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the scores (n, c) of a synthetic model for targets (n, c)."""
    noise = rng.standard_normal(targets.shape, dtype=np.float32)
    return noise + np.float32(SEPARATION) * targets.astype(np.float32) - 2


def make_patients(n: int, n_patients: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the patient (n,) of every row, sorted; a few patients have many images, many have one."""
    rng = np.random.default_rng(seed)
    return np.sort((n_patients * rng.random(n) ** 1.5).astype(np.int64))
