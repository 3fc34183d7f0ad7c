"""A synthetic fold to train on: labels with the frequencies of CXR-LT 2023, and noise images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.synthetic import make_long_tailed
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023
from cxrlt.recipe import Recipe
from cxrlt.training.cost import make_noise_fold
from cxrlt.training.job import FoldJob

CHALLENGE = get_challenge("cxrlt2023")
N_TRAIN = CHALLENGE.train_images
"""Number of images in COUNTS_2023."""
CLASSES = tuple(COUNTS_2023)


def make_labels(ids: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Return labels 1 and 0 (index image_id, columns CLASSES)."""
    targets, _ = make_long_tailed(len(ids), COUNTS_2023, N_TRAIN, seed)
    return pd.DataFrame(targets.astype(np.float32), pd.Index(ids, name="image_id"), list(CLASSES))


def make_synthetic_fold(folder: Path, recipe: Recipe, n_images: int) -> FoldJob:
    """Return a fold job with `n_images` training rows and no validation rows, below `folder`."""
    labels = make_labels([f"{number:06}" for number in range(n_images)])
    table = labels.assign(patient=labels.index, study=labels.index, view="frontal")
    return make_noise_fold(folder, CHALLENGE, recipe, table)
