"""What the last updates came to, looked at before anything is made of it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.system.signals import asked_to_stop
from cxrlt.training.batch_size import updates_per_epoch
from cxrlt.training.batches import batches_of
from cxrlt.training.checkpoint import checkpoints, update_of
from cxrlt.training.setup import Trainer

NONE_YET = "No checkpoint is from before that"


def take_stock(trainer: Trainer, pending: list[Tensor]) -> bool:
    """Add what the last updates came to to the epoch's sums. Returns whether a process is asked to stop.

    Raises UserError, before anything is saved, if a loss, a gradient or the weights are no numbers.
    """
    progress, largest = trainer.progress, trainer.job.recipe.optim.clip_grad
    weights = nn.utils.get_total_norm([weight.detach() for weight in trainer.bare.parameters()])
    asked = torch.full_like(weights, asked_to_stop())
    *found, (size, n_asked) = trainer.accelerator.reduce(
        torch.stack([*pending, torch.stack([weights, asked])]), "sum"
    ).tolist()
    for number, (loss, norm) in enumerate(found, start=progress.update - len(found)):
        require_finite(trainer, number, {"loss": loss, "norm of the gradient": norm})
        progress.loss_sum += loss
        progress.n_clipped += largest is not None and norm > largest
    require_finite(trainer, progress.update - 1, {"norm of the weights": size})
    return n_asked > 0


def require_finite(trainer: Trainer, number: int, values: Mapping[str, float]) -> None:
    """Raises UserError if one of `values` (name -> value) of update `number` (from 0) is infinite or NaN.

    It says all that may explain it: the learning rate, the images, and what is left from before.
    """
    wrong = [f"the {name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if not wrong:
        return
    job = trainer.job
    epoch, place = divmod(number, updates_per_epoch(len(trainer.dataset), job.recipe.optim.batch_size))
    trainer.scheduler.step_update(number)
    lr = max(group["lr"] for group in trainer.optimizer.param_groups)
    row_of = trainer.dataset.row_of
    images = row_of.index[row_of.isin(batches_of(trainer, epoch)[place] % len(trainer.dataset))]
    good = checkpoints(job.run_dir, up_to=number)
    last = f"The last good checkpoint is of update {update_of(good[0])}: {good[0]}" if good else NONE_YET
    raise UserError(
        f"{job.run_dir}: {' and '.join(wrong)} at update {number + 1} (epoch {epoch + 1}), with learning "
        f"rate {lr:.3g} on the images {listing(images)}. {last}. Lower --optim.lr or set --optim.clip-grad, "
        "and start anew with --force."
    )
