"""The training batches of one process: one stream from the next update to the last update of the run."""

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cxrlt.errors import UserError
from cxrlt.inputs.contact_sheet import write_contact_sheet
from cxrlt.inputs.dataset import Inputs, item_loader, micro_batches_of_rank
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.training.out_of_memory import FIXES, halve_rows
from cxrlt.training.setup import Trainer, resolve_n_workers

MicroBatch = tuple[Inputs, Tensor]
"""Inputs and labels (n_rows, n_classes)."""
N_CONTACT_SHEET_IMAGES = 16
"""Number of images of the first batch in first_batch.png."""


@dataclass
class Batch:
    """The rows of one update (counted from 0 over all epochs), loaded when `micro_batches` needs them.

    `draws` (n_drawn,) are the draws of the global batch, over all processes (see `epoch_batches`).
    `local_draws` has one array for each micro-batch of this process, and `loaded` yields these micro-batches.
    """

    epoch: int
    update: int
    draws: np.ndarray
    local_draws: list[np.ndarray]
    loaded: Iterable[MicroBatch] = ()
    data_wait_seconds: float = 0.0

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Yield the remaining micro-batches one by one, so that memory holds one at a time."""
        requested_at = time.monotonic()
        for micro_batch in self.loaded:
            self.data_wait_seconds += time.monotonic() - requested_at
            yield micro_batch
            requested_at = time.monotonic()


def batch_stream(trainer: Trainer) -> Generator[Batch, None, None]:
    """Yield the batches of the run, starting with its next update.

    One loader serves all epochs: its worker processes start once and prefetch during validation. After
    `halve_micro_batch`, a new loader yields the same batch again in smaller micro-batches.
    """
    micro_batch_size = None
    while micro_batch_size != trainer.micro_batch_size:
        micro_batch_size = trainer.micro_batch_size
        planned, to_load = itertools.tee(_plan_batches(trainer))
        loaded = _load_micro_batches(trainer, to_load)
        for plan in planned:
            batch = replace(plan, loaded=itertools.islice(loaded, len(plan.local_draws)))
            yield batch
            if micro_batch_size != trainer.micro_batch_size:
                break
            deque(batch.loaded, maxlen=0)  # skip unread micro-batches: the next batch must not get them


def halve_micro_batch(trainer: Trainer, batch: Batch) -> None:
    """Undo an update of `batch` that ran out of memory, and use micro-batches of half the size from now on.

    Raises UserError if the micro-batch has one row only, if BatchNorm needs its rows together, or if other
    processes wait for the gradients of this one.
    """
    label, n_rows = f"fold {trainer.job.run.fold}", max(map(len, batch.local_draws))
    out_of_memory = f"{label}: out of memory with {n_rows} rows at once"
    if 1 < n_rows < 2 * trainer.min_micro_batch_size:
        raise UserError(f"{out_of_memory}, and the backbone's BatchNorm cannot train on one row. {FIXES}")
    if n_rows > 1 and trainer.accelerator.num_processes > 1:
        raise UserError(
            f"{out_of_memory}. Run the same command again with --optim.max-batch-per-device {n_rows // 2}: "
            "training continues from the last checkpoint, with the same batch size."
        )
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.batchnorm_stats.restore()
    trainer.progress.micro_batch_size = half = halve_rows(n_rows, label)
    change = f"using micro-batches of {half}, with the same batch size, from update {batch.update + 1}"
    print(f"{out_of_memory}: {change}", flush=True)


def epoch_draws(trainer: Trainer, epoch: int) -> list[np.ndarray]:
    """Return the sampled rows of every global batch of the epoch, one int64 array (n_drawn,) each."""
    job, n_rows = trainer.job, len(trainer.dataset)
    return epoch_batches(n_rows, job.recipe.optim.batch_size, job.run.seed, epoch, trainer.row_weights)


def global_batch_denominators(trainer: Trainer, batch: Batch, labels: Tensor) -> Tensor:
    """Return the divisors (n_sums,), on the device, of the loss's sums over the global batch.

    `labels` (n_rows, n_classes) are those of the first micro-batch, on the device. If they are the whole
    batch, no other labels are computed.
    """
    if len(labels) < len(batch.draws):
        labels = trainer.dataset.targets_of(batch.epoch, batch.draws)
        if trainer.accelerator.device.type == "cuda":
            labels = labels.pin_memory()  # without it, the copy would wait for all queued GPU work
        labels = labels.to(trainer.accelerator.device, non_blocking=True)
    return trainer.loss.denominators(labels)


def _plan_batches(trainer: Trainer) -> Iterator[Batch]:
    """Yield the remaining batches of the run, without loading anything."""
    first, accelerator = trainer.progress.update, trainer.accelerator
    rank, world_size = accelerator.process_index, accelerator.num_processes
    for epoch in range(first // trainer.updates_per_epoch, trainer.job.recipe.schedule.epochs):
        for update, draws in enumerate(epoch_draws(trainer, epoch), epoch * trainer.updates_per_epoch):
            if update >= first:
                local_draws = micro_batches_of_rank(
                    draws, rank, world_size, trainer.micro_batch_size, trainer.min_micro_batch_size
                )
                yield Batch(epoch, update, draws, local_draws)


def _load_micro_batches(trainer: Trainer, batches: Iterable[Batch]) -> Iterator[MicroBatch]:
    """Yield every micro-batch of `batches`, and write first_batch.png at the first update of the run."""
    n_workers = resolve_n_workers(trainer.job.recipe.data.n_workers, trainer.accelerator)
    pinned = trainer.accelerator.device.type == "cuda"
    first = trainer.progress.update == 0 and trainer.accelerator.is_main_process
    items = (
        [(batch.epoch, draw) for draw in micro.tolist()] for batch in batches for micro in batch.local_draws
    )
    for inputs, labels, _ in item_loader(trainer.dataset, items, n_workers, pinned):
        if first:
            _write_first_batch(trainer, inputs, labels[:N_CONTACT_SHEET_IMAGES])
            first = False
        yield inputs, labels


def _write_first_batch(trainer: Trainer, inputs: Inputs, labels: Tensor) -> None:
    """Write the first images of the batch, of a study only its first; cached features have no images."""
    if "images" not in inputs:
        return
    images = inputs["images"][: len(labels)]
    images = images[:, 0] if images.ndim == 5 else images
    classes = trainer.job.data.classes
    names = [[name for name, label in zip(classes, row, strict=True) if label > 0] for row in labels]
    write_contact_sheet(trainer.job.run_dir / "first_batch.png", images.numpy(), names)
