"""The batches of a run, as one of its processes sees them."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from cxrlt.errors import UserError
from cxrlt.inputs.contact_sheet import write_contact_sheet
from cxrlt.inputs.dataset import Inputs, Item, item_loader, rank_share
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.training.batch_size import updates_per_epoch
from cxrlt.training.memory import FIXES, half_of
from cxrlt.training.setup import Trainer, worker_count

DRAWN = 16  # images of the first batch


def batches_of(trainer: Trainer, epoch: int, done: int = 0) -> list[np.ndarray]:
    """The draws of every batch of the epoch after the first `done`, the same on all processes."""
    job = trainer.job
    batches = epoch_batches(
        len(trainer.dataset), job.recipe.optim.batch_size, job.seed, epoch, trainer.row_weights
    )
    return batches[done:]


def share_of(trainer: Trainer, batch: np.ndarray) -> list[np.ndarray]:
    """The micro-batches of `batch` that this process computes."""
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    return rank_share(batch, rank, world, trainer.rows_per_pass, trainer.rows_needed)


def take_half(trainer: Trainer, batch: np.ndarray) -> None:
    """Be as before an update of `batch` that the device's memory did not hold, and take half at a time.

    Raises UserError for a single row, for rows that BatchNorm needs together, and where other processes wait
    for the gradients of this one.
    """
    job, progress, n_rows = trainer.job, trainer.progress, max(map(len, share_of(trainer, batch)))
    too_many = f"fold {job.fold}: the device's memory does not hold {n_rows} rows at once"
    if 1 < n_rows < 2 * trainer.rows_needed:
        raise UserError(f"{too_many}, and the backbone's BatchNorm cannot train on one. {FIXES}")
    if n_rows > 1 and trainer.accelerator.num_processes > 1:
        raise UserError(
            f"{too_many}. Run the same command again with --optim.max-batch-per-device {n_rows // 2}: it "
            "goes on from the last checkpoint, with batches of the same size."
        )
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.statistics.restore()
    progress.rows_per_pass = half_of(n_rows, f"fold {job.fold}")
    at_a_time = f"{progress.rows_per_pass} at a time, in batches of the same size"
    print(f"{too_many}: from update {progress.update + 1} on {at_a_time}", flush=True)


def load(trainer: Trainer) -> Iterator[tuple[Inputs, Tensor]]:
    """Inputs and labels (b, c) of every micro-batch from the next update on; the run's first is drawn.

    One loader for all epochs: its processes start once, and read ahead while an epoch is validated. Only when
    fewer rows are to be computed at once another one begins again with the update under way.
    """
    n_workers = worker_count(trainer.job.recipe.data.n_workers, trainer.accelerator)
    pinned = trainer.accelerator.device.type == "cuda"
    at_once = None
    while at_once != trainer.rows_per_pass:
        at_once = trainer.rows_per_pass
        draw = trainer.progress.update == 0 and trainer.accelerator.is_main_process
        items = _items(trainer, trainer.progress.update)
        for inputs, labels, _ in item_loader(trainer.dataset, items, n_workers, pinned):
            if draw:
                _draw(trainer, inputs, labels[:DRAWN])
                draw = False
            yield inputs, labels
            if at_once != trainer.rows_per_pass:
                break


def _items(trainer: Trainer, update: int) -> Iterator[list[Item]]:
    cfg = trainer.job.recipe
    per_epoch = updates_per_epoch(len(trainer.dataset), cfg.optim.batch_size)
    for epoch in range(update // per_epoch, cfg.schedule.epochs):
        for batch in batches_of(trainer, epoch, max(update - epoch * per_epoch, 0)):
            for micro in share_of(trainer, batch):
                yield [(epoch, draw) for draw in micro.tolist()]


def whole_batch_denominators(trainer: Trainer, epoch: int, batch: np.ndarray, labels: Tensor) -> Tensor:
    """What the loss's sums over the whole batch, over all processes, are divided by: (k,) on the device.

    `labels` are its first micro-batch's, on the device: if that is the whole batch, no others are made.
    """
    if len(labels) < len(batch):
        labels = trainer.dataset.targets_of(epoch, batch)
        if trainer.accelerator.device.type == "cuda":
            labels = labels.pin_memory()  # else the copy waits for all that the device has to do
        labels = labels.to(trainer.accelerator.device, non_blocking=True)
    return trainer.loss.denominators(labels)


def _draw(trainer: Trainer, inputs: Inputs, labels: Tensor) -> None:
    """The first images of the batch, of a study its first; cached features cannot be drawn."""
    if "images" not in inputs:
        return
    images = inputs["images"][: len(labels)]
    images = images[:, 0] if images.ndim == 5 else images
    classes = trainer.job.classes
    names = [[name for name, label in zip(classes, row, strict=True) if label > 0] for row in labels]
    write_contact_sheet(trainer.job.run_dir / "first_batch.png", images.numpy(), names)
