"""Features of a frozen backbone for every image of a cache, computed once and shared by all who need them."""

import dataclasses
import hashlib
import sys

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import Inputs, XRayDataset, make_loader
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.features import FeatureCache, FeatureWriter, feature_writer, features_path, open_features
from cxrlt.inputs.loader_workers import readers_watched
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import Recipe
from cxrlt.training.checkpoint import sha256_of_tensors
from cxrlt.training.memory import in_parts, memory_watched


def feature_cache(
    model: XRayModel, recipe: Recipe, images: ImageCache, accelerator: Accelerator, n_workers: int
) -> FeatureCache:
    """`model.features` of every image in the cache, without augmentation, float32 (n, t, d).

    They lie beside the image cache, under a key of the backbone's own weights: runs and folds share them only
    if their backbones are the same to the last bit. Of several processes one computes and the others wait.
    """
    model.eval()
    key = features_key(model, recipe, images, accelerator)
    directory = features_path(images.directory.parent, recipe.model.backbone, images.ids, key)
    found = open_features(directory)
    if found is None:
        first = _unlabelled(images, images.ids[:1], recipe.data.size)[0, 0][0]["images"][None]
        shape = tuple(_features(model, first.to(accelerator.device), accelerator).shape[1:])
        with feature_writer(directory, list(images.ids), shape, key) as writer:
            dataset = _unlabelled(images, writer.ids, recipe.data.size)
            _compute(model, dataset, writer, accelerator, recipe.optim.max_batch_per_device, n_workers)
        found = open_features(directory)
    return found


def features_key(
    model: XRayModel, recipe: Recipe, images: ImageCache, accelerator: Accelerator
) -> dict[str, object]:
    """All that the features are a function of: the backbone's tensors, how they are read, and the images.

    Images count by their content: where they lie, and when they were written, makes no difference.
    """
    return {
        "backbone": recipe.model.backbone,
        "weights": _hash_of(model),
        "layout": dataclasses.asdict(model.layout),
        "size": recipe.data.size,
        "decoder": DECODERS[images.channels],
        "cache_size": images.size,
        "files": hashlib.sha256(images.hashes[images.rows.to_numpy()].tobytes()).hexdigest(),
        "precision": accelerator.mixed_precision,
    }


def _hash_of(model: XRayModel) -> str:
    """Of the backbone's tensors, buffers included, and of what images are normalised with."""
    tensors = {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    tensors |= {"mean": model.mean, "std": model.std}
    return sha256_of_tensors(tensors)


def _unlabelled(images: ImageCache, ids: pd.Index, size: int) -> XRayDataset:
    return XRayDataset(images, list(ids), np.empty((len(ids), 0), np.float32), size=size)


def _compute(
    model: XRayModel,
    dataset: XRayDataset,
    writer: FeatureWriter,
    accelerator: Accelerator,
    batch_size: int,
    n_workers: int,
) -> None:
    pending = writer.pending
    batches = [pending[at : at + batch_size] for at in range(0, len(pending), batch_size)]
    loader = make_loader(dataset, 0, batches, n_workers)
    quiet = not sys.stderr.isatty()
    shown = tqdm(loader, desc="features", unit="batch", leave=False, disable=quiet)

    def compute(inputs: Inputs) -> Tensor:
        return _features(model, inputs["images"], accelerator)

    with readers_watched(), memory_watched():
        for features, rows in in_parts(shown, compute, accelerator.device, "features"):
            writer.write(rows.numpy(), features.cpu().numpy())


def _features(model: XRayModel, images: Tensor, accelerator: Accelerator) -> Tensor:
    with torch.inference_mode(), accelerator.autocast():
        return model.features(images).float()
