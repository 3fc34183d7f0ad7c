"""Labels, scores and patients as a challenge has them: a long tail, and scores that know something."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SEPARATION = 1.2
"""Standard deviations between the scores of a class's positives and negatives: an AUROC of about .8."""


def long_tailed(
    n: int, counts: Mapping[str, int], n_images: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Targets (n, c) of 1 and 0, each class as frequent as in `counts` of `n_images`, and scores (n, c).

    Every class has a positive and a negative row.
    """
    rng = np.random.default_rng(seed)
    rates = np.array(list(counts.values())) / n_images
    targets = (rng.random((n, len(rates))) < rates).astype(np.float64)
    targets[0], targets[1] = 1, 0
    return targets, logits_for(targets, rng)


def logits_for(targets: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Scores (n, c) of one model for these targets."""
    noise = rng.standard_normal(targets.shape, dtype=np.float32)
    return noise + np.float32(SEPARATION) * targets.astype(np.float32) - 2


def patients(n: int, n_patients: int, seed: int = 0) -> NDArray[np.int64]:
    """The patient (n,) of every row, a patient's rows together; some have many images and many have one."""
    rng = np.random.default_rng(seed)
    return np.sort((n_patients * rng.random(n) ** 1.5).astype(np.int64))
