"""The batches of a run, as one of its processes sees them: one stream from the next update to the last."""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cxrlt.errors import UserError
from cxrlt.inputs.contact_sheet import write_contact_sheet
from cxrlt.inputs.dataset import Inputs, item_loader, rank_share
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.training.out_of_memory import FIXES, half_of
from cxrlt.training.setup import Trainer, worker_count

MicroBatch = tuple[Inputs, Tensor]
"""Inputs and labels (b, c)."""
N_DRAWN = 16
"""Images of the first batch in its picture."""


@dataclass
class Batch:
    """The rows of one update (from 0, over all epochs), read as `micro_batches` asks for them.

    `draws` are those of the whole batch, over all processes; `share` has those of each micro-batch of this
    one, and `loaded` gives what they are.
    """

    epoch: int
    update: int
    draws: np.ndarray
    share: list[np.ndarray]
    loaded: Iterable[MicroBatch] = ()
    seconds_waited: float = 0.0

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Those that are not read yet, one after the other: they need not lie in memory together."""
        asked = time.monotonic()
        for micro_batch in self.loaded:
            self.seconds_waited += time.monotonic() - asked
            yield micro_batch
            asked = time.monotonic()


def batch_stream(trainer: Trainer) -> Iterator[Batch]:
    """The batches of the run from its next update on.

    One loader for all epochs: its processes start once, and read ahead while an epoch is validated. After
    `halve_micro_batch` another one begins again with the batch under way, in smaller micro-batches.
    """
    n_rows = None
    while n_rows != trainer.rows_per_pass:
        n_rows = trainer.rows_per_pass
        plan, to_load = itertools.tee(_plan(trainer))
        loaded = _load(trainer, to_load)
        for planned in plan:
            batch = replace(planned, loaded=itertools.islice(loaded, len(planned.share)))
            yield batch
            if n_rows != trainer.rows_per_pass:
                break
            deque(batch.loaded, maxlen=0)  # what was not read must not pass for the next batch's


def halve_micro_batch(trainer: Trainer, batch: Batch) -> None:
    """Be as before an update of `batch` that the device's memory did not hold, and take half at a time.

    Raises UserError for a single row, for rows that BatchNorm needs together, and where other processes wait
    for the gradients of this one.
    """
    label, n_rows = f"fold {trainer.job.run.fold}", max(map(len, batch.share))
    too_many = f"{label}: the device's memory does not hold {n_rows} rows at once"
    if 1 < n_rows < 2 * trainer.rows_needed:
        raise UserError(f"{too_many}, and the backbone's BatchNorm cannot train on one. {FIXES}")
    if n_rows > 1 and trainer.accelerator.num_processes > 1:
        raise UserError(
            f"{too_many}. Run the same command again with --optim.max-batch-per-device {n_rows // 2}: it "
            "goes on from the last checkpoint, with batches of the same size."
        )
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.statistics.restore()
    trainer.progress.rows_per_pass = half = half_of(n_rows, label)
    rest = f"{half} at a time, in batches of the same size"
    print(f"{too_many}: from update {batch.update + 1} on {rest}", flush=True)


def draws_of_epoch(trainer: Trainer, epoch: int) -> list[np.ndarray]:
    """The draws of every batch of the epoch, the same on all processes."""
    job, n_rows = trainer.job, len(trainer.dataset)
    return epoch_batches(n_rows, job.recipe.optim.batch_size, job.run.seed, epoch, trainer.row_weights)


def whole_batch_denominators(trainer: Trainer, batch: Batch, labels: Tensor) -> Tensor:
    """What the loss's sums over the whole batch, over all processes, are divided by: (k,) on the device.

    `labels` are its first micro-batch's, on the device: if that is the whole batch, no others are made.
    """
    if len(labels) < len(batch.draws):
        labels = trainer.dataset.targets_of(batch.epoch, batch.draws)
        if trainer.accelerator.device.type == "cuda":
            labels = labels.pin_memory()  # else the copy waits for all that the device has to do
        labels = labels.to(trainer.accelerator.device, non_blocking=True)
    return trainer.loss.denominators(labels)


def _plan(trainer: Trainer) -> Iterator[Batch]:
    """The batches from the next update on, of which nothing is loaded yet."""
    first, accelerator = trainer.progress.update, trainer.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    for epoch in range(first // trainer.updates_per_epoch, trainer.job.recipe.schedule.epochs):
        for update, draws in enumerate(draws_of_epoch(trainer, epoch), epoch * trainer.updates_per_epoch):
            if update >= first:
                share = rank_share(draws, rank, world, trainer.rows_per_pass, trainer.rows_needed)
                yield Batch(epoch, update, draws, share)


def _load(trainer: Trainer, batches: Iterable[Batch]) -> Iterator[MicroBatch]:
    """Every micro-batch of these batches; the first images of the run go into a picture."""
    n_workers = worker_count(trainer.job.recipe.data.n_workers, trainer.accelerator)
    pinned = trainer.accelerator.device.type == "cuda"
    first = trainer.progress.update == 0 and trainer.accelerator.is_main_process
    items = ([(batch.epoch, draw) for draw in micro.tolist()] for batch in batches for micro in batch.share)
    for inputs, labels, _ in item_loader(trainer.dataset, items, n_workers, pinned):
        if first:
            _draw(trainer, inputs, labels[:N_DRAWN])
            first = False
        yield inputs, labels


def _draw(trainer: Trainer, inputs: Inputs, labels: Tensor) -> None:
    """The first images of the batch, of a study its first; cached features cannot be drawn."""
    if "images" not in inputs:
        return
    images = inputs["images"][: len(labels)]
    images = images[:, 0] if images.ndim == 5 else images
    classes = trainer.job.data.classes
    names = [[name for name, label in zip(classes, row, strict=True) if label > 0] for row in labels]
    write_contact_sheet(trainer.job.run_dir / "first_batch.png", images.numpy(), names)
