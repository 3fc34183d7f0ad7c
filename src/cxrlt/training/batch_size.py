"""Batches that a BatchNorm can train on: one image alone may leave it a single value per channel."""

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator

from cxrlt.errors import UserError
from cxrlt.inputs.table import study_codes
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.models.dry_run import needs_two_images
from cxrlt.training.job import FoldJob


def synchronises_batchnorm(accelerator: Accelerator) -> bool:
    """Whether BatchNorm sees the rows of all processes together."""
    return accelerator.device.type == "cuda" and accelerator.num_processes > 1


def updates_per_epoch(n_rows: int, batch_size: int) -> int:
    """How many batches the rows of a data set make."""
    return -(-n_rows // batch_size)


def rows_needed(model: XRayModel, job: FoldJob, accelerator: Accelerator) -> int:
    """Rows, 1 or 2, that must be computed together for every BatchNorm to have several values per channel."""
    if model.backbone is None or synchronises_batchnorm(accelerator) or _images_of_rows(job).min() > 1:
        return 1
    return 2 if needs_two_images(model.backbone, job.recipe.data.size, job.challenge.channels) else 1


def require_batches_that_train(jobs: Sequence[FoldJob], accelerator: Accelerator) -> None:
    """Raises UserError if in any fold or stage a process would have one row alone that it cannot train on."""
    world = accelerator.num_processes
    parts = [part for job in jobs for part in (*job.stages, job) if not part.recipe.model.frozen]
    n_rows = [len(_images_of_rows(part)) for part in parts]
    for part, n in zip(parts, n_rows, strict=True):
        cfg = part.recipe
        if _smallest_share(n, cfg.optim.batch_size, world) != 1:
            continue
        random = cfg.model.model_copy(update={"pretrained": False})
        model = create_model(random, len(part.data.classes), cfg.data.size, part.challenge.channels)
        if rows_needed(model, part, accelerator) == 1:
            continue
        works = _smallest_batch_size(n_rows, cfg.optim.batch_size, world)
        advice = (
            f"Take --optim.batch-size {works}"
            if works
            else "Take another --model.backbone, without BatchNorm"
        )
        shared = f" shared by {world} processes" if world > 1 else ""
        raise UserError(
            f"optim.batch_size {cfg.optim.batch_size} leaves a row alone in a batch of fold {part.run.fold} "
            f"({n:,} rows{shared}), and the BatchNorm of {cfg.model.backbone} at data.size {cfg.data.size} "
            f"cannot train on one image. {advice}."
        )


def _images_of_rows(job: FoldJob) -> np.ndarray:
    """How many images the backbone sees of every training row: of a study up to fusion.max_images."""
    if not job.recipe.uses_fusion:
        return np.ones(len(job.data.train), dtype=np.int64)
    return np.bincount(study_codes(job.data.train))


def _smallest_share(n_rows: int, batch_size: int, world: int) -> int:
    """Rows of the smallest part of a batch that a process gets: sizes of batches differ by one at most."""
    return n_rows // updates_per_epoch(n_rows, batch_size) // world


def _smallest_batch_size(n_rows: Sequence[int], above: int, world: int) -> int | None:
    """The smallest that leaves no row alone in any of the data sets."""
    for batch_size in range(above + 1, max(n_rows) + 1):
        if all(_smallest_share(n, batch_size, world) > 1 for n in n_rows):
            return batch_size
    return None
