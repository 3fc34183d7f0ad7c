"""Check that BatchNorm can train on every batch: with one image it may see only one value per channel."""

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator

from cxrlt.errors import UserError
from cxrlt.inputs.table import study_codes
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.models.dry_run import needs_two_images
from cxrlt.training.job import FoldJob


def uses_sync_batchnorm(accelerator: Accelerator) -> bool:
    """Return whether BatchNorm computes its statistics over the rows of all processes."""
    return accelerator.device.type == "cuda" and accelerator.num_processes > 1


def updates_per_epoch(n_rows: int, batch_size: int) -> int:
    """Return the number of batches, and so of optimiser updates, in one pass over the data set."""
    return -(-n_rows // batch_size)


def min_micro_batch_size(model: XRayModel, job: FoldJob, accelerator: Accelerator) -> int:
    """Return the smallest number of rows, 1 or 2, that gives every BatchNorm several values per channel."""
    if model.backbone is None or uses_sync_batchnorm(accelerator) or _images_per_row(job).min() > 1:
        return 1
    return 2 if needs_two_images(model.backbone, job.recipe.data.size, model.in_chans) else 1


def require_trainable_batches(jobs: Sequence[FoldJob], accelerator: Accelerator) -> None:
    """Check that no process gets a batch of one row that BatchNorm cannot train on, in any fold or stage.

    Raises UserError with the smallest batch size that works.
    """
    world_size = accelerator.num_processes
    trainings = [stage for job in jobs for stage in (*job.stages, job) if not stage.recipe.model.frozen]
    n_rows = [len(_images_per_row(training)) for training in trainings]
    for training, n in zip(trainings, n_rows, strict=True):
        cfg = training.recipe
        if _min_rows_per_process(n, cfg.optim.batch_size, world_size) != 1:
            continue
        n_classes, channels = len(training.data.classes), training.challenge.channels
        model = create_model(cfg.model, n_classes, cfg.data.size, channels, load_pretrained=False)
        if min_micro_batch_size(model, training, accelerator) == 1:
            continue
        valid_batch_size = _next_valid_batch_size(n_rows, cfg.optim.batch_size, world_size)
        fix = (
            f"Use --optim.batch-size {valid_batch_size}"
            if valid_batch_size
            else "Use another --model.backbone, without BatchNorm"
        )
        shared = f" shared by {world_size} processes" if world_size > 1 else ""
        raise UserError(
            f"optim.batch_size {cfg.optim.batch_size} gives a batch with only one row in fold "
            f"{training.run.fold} ({n:,} rows{shared}), and the BatchNorm of {cfg.model.backbone} at "
            f"data.size {cfg.data.size} cannot train on one image. {fix}."
        )


def _images_per_row(job: FoldJob) -> np.ndarray:
    """Return the number of images of each training row, int64 (n_rows,): 1, or the images of its study."""
    if not job.recipe.uses_fusion:
        return np.ones(len(job.data.train), dtype=np.int64)
    return np.bincount(study_codes(job.data.train))


def _min_rows_per_process(n_rows: int, batch_size: int, world_size: int) -> int:
    """Return the smallest number of rows that a process gets of a batch; batches differ by at most 1 row."""
    return n_rows // updates_per_epoch(n_rows, batch_size) // world_size


def _next_valid_batch_size(n_rows: Sequence[int], batch_size: int, world_size: int) -> int | None:
    """Return the next larger batch size that gives no process a single row, in any of the data sets."""
    for larger in range(batch_size + 1, max(n_rows) + 1):
        if all(_min_rows_per_process(n, larger, world_size) > 1 for n in n_rows):
            return larger
    return None
