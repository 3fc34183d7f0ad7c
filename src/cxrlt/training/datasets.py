"""The data sets of a recipe for training and for evaluation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import LabelledDataset, XRayDataset
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.mixing import Mixing
from cxrlt.inputs.studies import StudyDataset
from cxrlt.recipe import Recipe
from cxrlt.training.job import FoldJob

InputCache = ImageCache | FeatureCache
"""The source of the model's inputs: images, or features of a frozen backbone."""


def create_train_dataset(job: FoldJob, source: InputCache) -> LabelledDataset:
    """Create the data set of the fold's training rows: images or studies, augmented and mixed.

    Augmentation is a function of (seed, epoch, image id, copy). Cached features are not augmented.
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
    ids, targets = list(data.train.index), data.targets(data.train)
    if isinstance(source, FeatureCache):
        return XRayDataset(source, ids, targets)
    mixing = Mixing.create(cfg.mix, data.classes, job.challenge.no_finding, job.challenge.task)
    return XRayDataset(source, ids, targets, seed=seed, transform=transform, size=cfg.size, mixing=mixing)


def create_eval_dataset(
    recipe: Recipe, table: pd.DataFrame, classes: Sequence[str], source: InputCache
) -> LabelledDataset:
    """Create the data set of all rows of `table`, without augmentation and with NaN targets.

    `table` has the index image_id and the columns of a challenge's table.
    """
    unknown = table.assign(**dict.fromkeys(classes, np.float32(np.nan)))
    if recipe.uses_fusion:
        n_images, size = recipe.model.fusion.max_images, recipe.data.size
        return StudyDataset(unknown, classes, source, max_images=n_images, size=size)
    ids, targets = list(table.index), unknown[list(classes)].to_numpy(np.float32)
    return XRayDataset(source, ids, targets, size=recipe.data.size)


def micro_batch_size(recipe: Recipe, source: InputCache) -> int:
    """Return the rows per micro-batch: optim.max_batch_per_device images, or studies of max_images."""
    n_images = recipe.optim.max_batch_per_device
    if recipe.uses_fusion and isinstance(source, ImageCache):
        return max(n_images // recipe.model.fusion.max_images, 1)
    return n_images
