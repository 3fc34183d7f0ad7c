"""Loss, gradients and weights are checked for NaN and infinity before anything is saved."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.system.signals import asked_to_stop
from cxrlt.training.batches import draws_of_epoch
from cxrlt.training.checkpoint import checkpoints, update_of
from cxrlt.training.setup import Trainer

NONE_YET = "No checkpoint is from before that"


def log_and_check_finite(trainer: Trainer, unchecked: list[Tensor]) -> bool:
    """Add loss and norm of the last updates to the epoch's sums. Returns whether a process is asked to stop.

    Raises UserError, before anything is saved, if a loss, a gradient or the weights are NaN or infinite.
    """
    progress, largest = trainer.progress, trainer.job.recipe.optim.clip_grad
    weights = nn.utils.get_total_norm([weight.detach() for weight in trainer.raw_model.parameters()])
    asked = torch.full_like(weights, asked_to_stop())
    *found, (size, n_asked) = trainer.accelerator.reduce(
        torch.stack([*unchecked, torch.stack([weights, asked])]), "sum"
    ).tolist()
    for update, (loss, norm) in enumerate(found, start=progress.update - len(found)):
        require_finite(trainer, update, {"loss": loss, "norm of the gradient": norm})
        progress.loss_sum += loss
        progress.n_clipped += largest is not None and norm > largest
    require_finite(trainer, progress.update - 1, {"norm of the weights": size})
    return n_asked > 0


def require_finite(trainer: Trainer, update: int, values: Mapping[str, float]) -> None:
    """Raises UserError if one of `values` (name -> value) of `update` (from 0) is infinite or NaN.

    It says all that may explain it: the learning rate, the images, and what is left from before.
    """
    wrong = [f"the {name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if not wrong:
        return
    run_dir, row_of = trainer.job.run_dir, trainer.dataset.row_of
    epoch, place = divmod(update, trainer.updates_per_epoch)
    trainer.scheduler.step_update(update)
    rows = draws_of_epoch(trainer, epoch)[place] % len(trainer.dataset)
    images = row_of.index[row_of.isin(rows)]
    good = checkpoints(run_dir, up_to=update)
    last = f"The last good checkpoint is of update {update_of(good[0])}: {good[0]}" if good else NONE_YET
    raise UserError(
        f"{run_dir}: {' and '.join(wrong)} at update {update + 1} (epoch {epoch + 1}), with learning rate "
        f"{trainer.lr:.3g} on the images {listing(images)}. {last}. Lower --optim.lr or set "
        "--optim.clip-grad, and start again with --force."
    )
