"""Features of a frozen backbone for every image of a cache, computed once and shared by folds and runs."""

import dataclasses
import hashlib
import sys
from functools import partial

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import Inputs, XRayDataset, make_loader
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.features import FeatureCache, feature_writer, features_path, open_features
from cxrlt.inputs.loader_workers import explain_dead_worker
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import Recipe
from cxrlt.training.checkpoint import sha256_of_tensors
from cxrlt.training.out_of_memory import explain_out_of_memory, run_in_chunks


def create_feature_cache(
    model: XRayModel, recipe: Recipe, images: ImageCache, accelerator: Accelerator, n_workers: int
) -> FeatureCache:
    """Return the cache of `model.features`, float32 (n_images, n_tokens, dim), computed if it does not exist.

    The images are not augmented. The folder is beside the image cache, and its key includes the backbone's
    weights, so runs and folds share it only if their backbones are bit-identical. Of several processes one
    computes and the others wait. Raises UserError if the device runs out of memory with one image.
    """
    model.eval()
    key = features_key(model, recipe, images, accelerator)
    directory = features_path(images.directory.parent, recipe.model.backbone, images.ids, key)
    found = open_features(directory)
    if found is not None:
        return found
    compute = partial(_compute_features, model, accelerator)
    first = _create_unlabelled_dataset(images, images.ids[:1], recipe.data.size)[0, 0][0]["images"]
    n_tokens, dim = compute({"images": first[None].to(accelerator.device)}).shape[1:]
    with (
        feature_writer(directory, list(images.ids), (n_tokens, dim), key) as writer,
        explain_dead_worker(),
        explain_out_of_memory(),
    ):
        dataset, pending = _create_unlabelled_dataset(images, writer.ids, recipe.data.size), writer.pending
        n_rows = recipe.optim.max_batch_per_device
        batches = [pending[first : first + n_rows] for first in range(0, len(pending), n_rows)]
        loader = make_loader(dataset, 0, batches, n_workers)
        quiet = not sys.stderr.isatty()
        shown = tqdm(loader, desc="features", unit="batch", leave=False, disable=quiet)
        for features, rows in run_in_chunks(shown, compute, accelerator.device, "features"):
            writer.write(rows.numpy(), features.cpu().numpy())
    features_written = open_features(directory)
    assert features_written is not None, f"{directory} was not written"
    return features_written


def features_key(
    model: XRayModel, recipe: Recipe, images: ImageCache, accelerator: Accelerator
) -> dict[str, object]:
    """Return everything that determines the features: backbone weights, feature layout and images.

    Images are identified by their content, not by their path or time.
    """
    assert model.backbone is not None, "features need a backbone"
    tensors = {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    tensors |= {"mean": model.mean, "std": model.std}  # of the image normalisation
    return {
        "backbone": recipe.model.backbone,
        "options": recipe.model.options,
        "weights": sha256_of_tensors(tensors),
        "layout": dataclasses.asdict(model.layout),
        "size": recipe.data.size,
        "decoder": DECODERS[images.channels],
        "cache_size": images.size,
        "files": hashlib.sha256(images.hashes[images.rows.to_numpy()].tobytes()).hexdigest(),
        "precision": accelerator.mixed_precision,
    }


def _create_unlabelled_dataset(images: ImageCache, ids: pd.Index, size: int) -> XRayDataset:
    return XRayDataset(images, list(ids), np.empty((len(ids), 0), np.float32), size=size)


def _compute_features(model: XRayModel, accelerator: Accelerator, inputs: Inputs) -> Tensor:
    with torch.inference_mode(), accelerator.autocast():
        return model.features(inputs["images"]).float()
