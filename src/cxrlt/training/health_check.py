"""Check loss, gradients and weights for NaN and infinity before saving."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.system.signals import stop_requested
from cxrlt.training.batches import epoch_draws
from cxrlt.training.checkpoint import checkpoint_update, list_checkpoints
from cxrlt.training.setup import Trainer

NO_GOOD_CHECKPOINT = "There is no checkpoint from before this update"


def log_and_check_finite(trainer: Trainer, unchecked: list[Tensor]) -> bool:
    """Add the last losses and gradient norms to the epoch's sums; return whether to stop (a signal).

    `unchecked` has one tensor of shape (2,) per update: loss and gradient norm. Raises UserError if a loss, a
    gradient or the weights are NaN or infinite.
    """
    progress, max_norm = trainer.progress, trainer.job.recipe.optim.clip_grad
    weights = nn.utils.get_total_norm([weight.detach() for weight in trainer.raw_model.parameters()])
    stop = torch.full_like(weights, stop_requested())
    *updates, (weight_norm, n_stop_requests) = trainer.accelerator.reduce(
        torch.stack([*unchecked, torch.stack([weights, stop])]), "sum"
    ).tolist()
    for update, (loss, norm) in enumerate(updates, start=progress.update - len(updates)):
        require_finite(trainer, update, {"loss": loss, "norm of the gradient": norm})
        progress.loss_sum += loss
        progress.n_clipped += max_norm is not None and norm > max_norm
    require_finite(trainer, progress.update - 1, {"norm of the weights": weight_norm})
    return n_stop_requests > 0


def require_finite(trainer: Trainer, update: int, values: Mapping[str, float]) -> None:
    """Raises UserError if one of `values` (name -> value) of `update` (counted from 0) is NaN or infinite.

    The message has the learning rate, the images of the batch and the last good checkpoint.
    """
    wrong = [f"the {name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if not wrong:
        return
    run_dir, row_of = trainer.job.run_dir, trainer.dataset.row_of
    epoch, index = divmod(update, trainer.updates_per_epoch)
    trainer.scheduler.step_update(update)
    rows = epoch_draws(trainer, epoch)[index] % len(trainer.dataset)
    images = row_of.index[row_of.isin(rows)]
    good = list_checkpoints(run_dir, up_to=update)
    last = (
        f"The last good checkpoint is from update {checkpoint_update(good[0])}: {good[0]}"
        if good
        else NO_GOOD_CHECKPOINT
    )
    raise UserError(
        f"{run_dir}: {' and '.join(wrong)} at update {update + 1} (epoch {epoch + 1}), with learning rate "
        f"{trainer.lr:.3g} on the images {listing(images)}. {last}. Lower --optim.lr or set "
        "--optim.clip-grad, and start again with --force."
    )
