"""The batches of an epoch, as one process of a run sees them."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from cxrlt.inputs.contact_sheet import write_contact_sheet
from cxrlt.inputs.dataset import Inputs, make_loader, rank_share
from cxrlt.inputs.sampling import epoch_batches, row_weights
from cxrlt.training.data import rows_per_pass
from cxrlt.training.setup import Trainer, worker_count

DRAWN = 16  # images of the first batch


def batches_of(trainer: Trainer, epoch: int) -> list[np.ndarray]:
    """The draws of every batch of the epoch, the same on all processes."""
    job, dataset = trainer.job, trainer.dataset
    weights = row_weights(dataset.targets.numpy(), job.recipe.data.sampling)
    return epoch_batches(len(dataset), job.recipe.optim.batch_size, job.seed, epoch, weights)


def share_of(trainer: Trainer, batch: np.ndarray) -> list[np.ndarray]:
    """The micro-batches of `batch` that this process computes."""
    accelerator, largest = trainer.accelerator, rows_per_pass(trainer.job.recipe, trainer.stored)
    return rank_share(batch, accelerator.process_index, accelerator.num_processes, largest)


def load(trainer: Trainer, epoch: int, batches: list[np.ndarray]) -> Iterator[tuple[Inputs, Tensor]]:
    """Inputs and labels (b, c) of every micro-batch; the run's first is drawn."""
    micro_batches = [micro for batch in batches for micro in share_of(trainer, batch)]
    n_workers = worker_count(trainer.job.recipe.data.n_workers, trainer.accelerator)
    pinned = trainer.accelerator.device.type == "cuda"
    draw = trainer.progress.update == 0 and trainer.accelerator.is_main_process
    for inputs, labels, _ in make_loader(trainer.dataset, epoch, micro_batches, n_workers, pinned):
        if draw:
            _draw(trainer, inputs, labels[:DRAWN])
            draw = False
        yield inputs, labels


def whole_batch_denominators(trainer: Trainer, epoch: int, batch: np.ndarray) -> Tensor:
    """What the loss's sums over the whole batch, over all processes, are divided by: (k,) on the device."""
    targets = trainer.dataset.targets_of(epoch, batch)
    return trainer.loss.denominators(targets.to(trainer.accelerator.device))


def _draw(trainer: Trainer, inputs: Inputs, labels: Tensor) -> None:
    """The first images of the batch, of a study its first; cached features cannot be drawn."""
    if "images" not in inputs:
        return
    images = inputs["images"][: len(labels)]
    images = images[:, 0] if images.ndim == 5 else images
    classes = trainer.job.classes
    names = [[name for name, label in zip(classes, row, strict=True) if label > 0] for row in labels]
    write_contact_sheet(trainer.job.run_dir / "first_batch.png", images.numpy(), names)
