"""Logits of a model for rows of a table: the one way that out-of-fold, dev and test rows are predicted."""

import sys

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import XRayDataset, evaluation_loader, on_device
from cxrlt.models.backbone import XRayModel


def infer(
    model: XRayModel,
    cache: ImageCache,
    ids: list[str],
    classes: tuple[str, ...],
    accelerator: Accelerator,
    *,
    size: int,
    batch_size: int,
    n_workers: int,
    flip: bool = False,
    label: str = "predict",
) -> pd.DataFrame:
    """float32 logits (index `ids`, one column per class), the same on every process.

    The model sees the central `size` x `size` of the cached images; `flip` averages the logits of each image
    and its mirror image. Each process predicts its share of the rows, which come back with their ids.
    """
    share = ids[accelerator.process_index :: accelerator.num_processes]
    empty = np.full((len(share), len(classes)), np.nan, np.float32)
    loader = evaluation_loader(XRayDataset(cache, share, empty, size=size), batch_size, n_workers)
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    logits = []
    model.eval()
    with torch.inference_mode():
        for inputs, _, _ in tqdm(loader, desc=label, unit="batch", leave=False, disable=quiet):
            inputs = on_device(inputs, accelerator.device)
            logits.append(_forward(model, inputs["images"], flip, accelerator).cpu())
    stacked = torch.cat(logits).numpy() if logits else empty
    parts = gather_object([(share, stacked)]) if accelerator.num_processes > 1 else [(share, stacked)]
    frames = [pd.DataFrame(values, index=rows, columns=list(classes)) for rows, values in parts]
    return pd.concat(frames).loc[ids].rename_axis("image_id")


def _forward(model: XRayModel, images: Tensor, flip: bool, accelerator: Accelerator) -> Tensor:
    with accelerator.autocast():
        logits = model.predict(images)
        return (logits + model.predict(images.flip(-1))) / 2 if flip else logits
