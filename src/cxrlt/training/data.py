"""Which data set a recipe trains on and is predicted with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import LabelledRows, XRayDataset
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.mixing import Mixing
from cxrlt.inputs.studies import StudyDataset
from cxrlt.recipe import Recipe
from cxrlt.training.job import FoldJob

InputCache = ImageCache | FeatureCache
"""Where what the model takes is read from: images, or the features of a frozen backbone."""


def training_set(job: FoldJob, source: InputCache) -> LabelledRows:
    """The fold's training rows, images or whole studies; those with images augmented and mixed.

    Augmentation is a function of (seed, epoch, image id, copy), and cached features have none.
    """
    data, seed, recipe, cfg = job.data, job.run.seed, job.recipe, job.recipe.data
    transform = None
    if isinstance(source, ImageCache):
        transform = Transform(cfg.size, **cfg.augment.model_dump(exclude={"policy"}))
    if recipe.uses_fusion:
        return StudyDataset(
            data.train,
            data.classes,
            source,
            max_images=recipe.model.fusion.max_images,
            seed=seed,
            transform=transform,
            size=cfg.size,
            training=True,
        )
    ids, targets = data.train.index, data.targets(data.train)
    if isinstance(source, FeatureCache):
        return XRayDataset(source, ids, targets)
    mixing = Mixing.create(cfg.mix, data.classes, job.challenge.no_finding, job.challenge.task)
    return XRayDataset(source, ids, targets, seed=seed, transform=transform, size=cfg.size, mixing=mixing)


def evaluation_set(
    recipe: Recipe, table: pd.DataFrame, classes: Sequence[str], source: InputCache
) -> LabelledRows:
    """The rows of `table` as they are; their targets are NaN, for a prediction needs none."""
    unknown = table.assign(**dict.fromkeys(classes, np.float32(np.nan)))
    if recipe.uses_fusion:
        n_images, size = recipe.model.fusion.max_images, recipe.data.size
        return StudyDataset(unknown, classes, source, max_images=n_images, size=size)
    ids, targets = table.index, unknown[list(classes)].to_numpy(np.float32)
    return XRayDataset(source, ids, targets, size=recipe.data.size)


def rows_per_pass(recipe: Recipe, source: InputCache) -> int:
    """Rows that a device computes at once: optim.max_batch_per_device images, a study counted as full."""
    n_images = recipe.optim.max_batch_per_device
    if recipe.uses_fusion and isinstance(source, ImageCache):
        return max(n_images // recipe.model.fusion.max_images, 1)
    return n_images
