"""Which data set a recipe trains on and is predicted with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlt.inputs.augment import build_transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import XRayDataset
from cxrlt.recipe import Recipe
from cxrlt.training.job import FoldJob

CaseDataset = XRayDataset
"""A row is an image or, where the images of a study are seen together, a study."""


def training_set(job: FoldJob) -> CaseDataset:
    """The fold's training rows, augmented as a function of (seed, epoch, image id, copy)."""
    cfg = job.recipe.data
    transform = build_transform(cfg.size, **cfg.augment.model_dump(exclude={"policy"}))
    ids = list(job.train.index)
    targets = job.targets(job.train)
    return XRayDataset(job.cache, ids, targets, seed=job.seed, transform=transform, size=cfg.size)


def evaluation_set(
    recipe: Recipe, table: pd.DataFrame, classes: Sequence[str], images: ImageCache
) -> CaseDataset:
    """The rows of `table` as they are; their targets are NaN, for a prediction needs none."""
    unknown = np.full((len(table), len(classes)), np.nan, np.float32)
    return XRayDataset(images, list(table.index), unknown, size=recipe.data.size)
