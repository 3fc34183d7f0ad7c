"""Logits of a model for rows of a table: the one way that out-of-fold, dev and test rows are predicted."""

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
from cxrlt.inputs.dataset import Inputs, LabelledRows, make_loader
from cxrlt.inputs.loader_workers import explain_dead_worker
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import TTAConfig
from cxrlt.training.out_of_memory import explain_out_of_memory, run_in_chunks
from cxrlt.training.tta import NO_TTA, merge_logits, only_as_they_are, variants


def infer(
    model: XRayModel,
    dataset: LabelledRows,
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
    """float32 logits (index `ids`, one column per class), the same on every process.

    A row of `dataset`, an image or a study, is computed once, and each of its images gets what came out; the
    logits of its variants in `tta` are merged. Each process predicts its share of the rows.
    """
    row_of = dataset.rows_of(ids)
    rows = np.unique(row_of)
    share = rows[accelerator.process_index :: accelerator.num_processes]
    batches = [share[at : at + batch_size] for at in range(0, len(share), batch_size)]
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    device = accelerator.device
    # stays on the device till the end: fetching each batch's would wait for it before the next is launched
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
    for part_rows, logits in parts:
        values[part_rows] = logits
    return pd.DataFrame(values[row_of], index=pd.Index(ids, name="image_id"), columns=list(classes))


def predict_variants(model: XRayModel, inputs: Inputs, tta: TTAConfig, task: Task) -> Tensor:
    """Logits (b, c) of one batch, those of its variants in `tta` merged."""
    if only_as_they_are(tta):
        return model.predict(inputs)
    passes = [model.predict(inputs | {"images": images}) for images in variants(inputs["images"], tta)]
    return merge_logits(torch.stack(passes), tta.merge, task)
