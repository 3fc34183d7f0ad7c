"""Logits of a model for the rows of a table; out-of-fold, dev and test predictions all use this function."""

import sys
from functools import partial

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from cxrlt.challenges.base import Task
from cxrlt.inputs.dataset import Inputs, LabelledDataset, make_loader
from cxrlt.inputs.loader_workers import explain_dead_worker
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import TTAConfig
from cxrlt.training.out_of_memory import explain_out_of_memory, run_in_chunks
from cxrlt.training.tta import NO_TTA, is_identity, merge_logits, tta_variants


def infer(
    model: XRayModel,
    dataset: LabelledDataset,
    ids: list[str],
    classes: tuple[str, ...],
    accelerator: Accelerator,
    *,
    task: Task,
    batch_size: int,
    n_workers: int,
    tta: TTAConfig = NO_TTA,
    label: str = "predict",
) -> pd.DataFrame:
    """Predict float32 logits, (len(ids), n_classes) with index `ids` and one column per class.

    Each row of `dataset` (an image or a study) is computed once, and all images of a study get its logits.
    The logits of the TTA variants are merged. Each process predicts a share of the rows, and all return
    everything. Raises UserError if the device runs out of memory with one row, or if a loader process dies.
    """
    row_of = dataset.rows_of(ids)
    rows = np.unique(row_of)
    share = rows[accelerator.process_index :: accelerator.num_processes]
    batches = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    device = accelerator.device
    # logits stay on the device until the end: copying each batch would delay the launch of the next one
    computed = torch.empty(len(share), len(classes), device=device)
    model.eval()
    with torch.inference_mode(), accelerator.autocast(), explain_dead_worker(), explain_out_of_memory():
        loader = make_loader(dataset, 0, batches, n_workers, pin_memory=device.type == "cuda")
        shown = tqdm(loader, desc=label, unit="batch", leave=False, disable=quiet)
        done = 0
        compute = partial(predict_variants, model, tta=tta, task=task)
        for logits, _ in run_in_chunks(shown, compute, device, label):
            computed[done : done + len(logits)] = logits
            done += len(logits)
    part = (share, computed.cpu().numpy())
    parts = gather_object([part]) if accelerator.num_processes > 1 else [part]
    values = np.full((len(dataset), len(classes)), np.nan, np.float32)
    for part_rows, part_logits in parts:
        values[part_rows] = part_logits
    return pd.DataFrame(values[row_of], index=pd.Index(ids, name="image_id"), columns=list(classes))


def predict_variants(model: XRayModel, inputs: Inputs, tta: TTAConfig, task: Task) -> Tensor:
    """Return the logits (n_rows, n_classes) of one batch, merged over its TTA variants."""
    if is_identity(tta):
        return model.predict(inputs)
    passes = [model.predict(inputs | {"images": images}) for images in tta_variants(inputs["images"], tta)]
    return merge_logits(torch.stack(passes), tta.merge, task)
