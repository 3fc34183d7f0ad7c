"""The training loop of one fold."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import Inputs, on_device
from cxrlt.inputs.memory import give_back_memory
from cxrlt.training.batches import batches_of, load, share_of, whole_batch_denominators
from cxrlt.training.checkpoint import remove_checkpoints, save_tensors
from cxrlt.training.job import FoldJob, tags
from cxrlt.training.places import WEIGHTS
from cxrlt.training.setup import Trainer, create_trainer, seed_of, updates_per_epoch
from cxrlt.training.soup import keep_snapshot, pour
from cxrlt.training.validate import BEST, end_epoch, save_if_due, validate

MicroBatches = Iterator[tuple[Inputs, Tensor]]
CHECK_EVERY = 10  # updates between two looks at the loss; each look waits for the device


def fit(job: FoldJob, accelerator: Accelerator) -> None:
    """Train one fold to its weights.safetensors, going on from its last checkpoint if there is one."""
    trainer = create_trainer(job, accelerator)
    give_back_memory()
    progress = trainer.progress
    per_epoch = updates_per_epoch(len(trainer.dataset), job.recipe.optim.batch_size)
    n_updates = per_epoch * job.recipe.schedule.epochs
    if progress.update:
        accelerator.print(f"fold {job.fold}: going on from update {progress.update} of {n_updates}")
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    micro_batches = load(trainer)
    with tqdm(total=n_updates, initial=progress.update, desc=f"fold {job.fold}", disable=quiet) as bar:
        for epoch in range(progress.update // per_epoch, job.recipe.schedule.epochs):
            speed = train_epoch(trainer, epoch, micro_batches, bar)
            keep_snapshot(trainer, epoch + 1)
            means = {"loss": progress.loss_sum / per_epoch, "clipped_share": progress.n_clipped / per_epoch}
            end_epoch(trainer, {"epoch": epoch + 1} | means | validate(trainer) | speed)
    if job.recipe.soup.kind != "none":
        pour(trainer)
    if accelerator.is_main_process:
        if job.recipe.predict.weights == "best" and not job.valid.empty:
            (job.run_dir / BEST).replace(job.run_dir / WEIGHTS)
        else:
            save_tensors(job.run_dir / WEIGHTS, trainer.weights(), tags(job))
        remove_checkpoints(job.run_dir)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it would keep the models of all trainings before the next on the device


def train_epoch(trainer: Trainer, epoch: int, micro_batches: MicroBatches, bar: tqdm) -> dict[str, float]:
    """Every batch of the epoch that is not done yet. Returns learning rate and speed."""
    job, accelerator, progress = trainer.job, trainer.accelerator, trainer.progress
    per_epoch = updates_per_epoch(len(trainer.dataset), job.recipe.optim.batch_size)
    batches = batches_of(trainer, epoch, progress.update - epoch * per_epoch)
    began = time.monotonic()
    waited, n_rows = 0.0, 0
    pending = torch.zeros(2, device=accelerator.device)
    trainer.loss.set_epoch(epoch)
    trainer.model.train()

    for number, batch in enumerate(batches, start=1):
        sums, wait = update(trainer, epoch, batch, micro_batches)
        pending += sums
        waited += wait
        n_rows += len(batch)
        progress.update += 1
        bar.update()
        if number < len(batches) and number % CHECK_EVERY:
            continue
        loss, n_clipped = accelerator.reduce(pending, "sum").tolist()
        progress.loss_sum += require_finite(loss, trainer)
        progress.n_clipped += n_clipped
        pending.zero_()
        seconds = time.monotonic() - began
        bar.set_postfix_str(f"{n_rows / seconds:.0f} images/s, {waited / seconds:.0%} waiting for data")
        if number < len(batches):  # the last one's is written after validation, with the epoch's log
            save_if_due(trainer, 60 * job.recipe.checkpoint_minutes)

    seconds = time.monotonic() - began
    lr = max(group["lr"] for group in trainer.optimizer.param_groups)
    return {"lr": lr, "images_per_s": n_rows / seconds, "data_wait_share": waited / seconds}


def update(
    trainer: Trainer, epoch: int, batch: np.ndarray, micro_batches: MicroBatches
) -> tuple[Tensor, float]:
    """One step. Returns two numbers to be summed over processes, and the seconds it waited for data.

    The two, (2,) on the device, are the batch's loss and whether its gradient was clipped.
    """
    job, accelerator, number = trainer.job, trainer.accelerator, trainer.progress.update
    trainer.scheduler.step_update(number)
    torch.manual_seed(seed_of(job.seed, number, accelerator.process_index))  # dropout and drop-path
    n_micro = len(share_of(trainer, batch))
    total, waited = torch.zeros((), device=accelerator.device), 0.0

    for micro in range(n_micro):
        asked = time.monotonic()
        inputs, labels = next(micro_batches)
        waited += time.monotonic() - asked
        inputs = on_device(inputs, accelerator.device)
        labels = labels.to(accelerator.device, non_blocking=True)
        if micro == 0:
            denominators = whole_batch_denominators(trainer, epoch, batch, labels)
        with nullcontext() if micro == n_micro - 1 else accelerator.no_sync(trainer.model):
            loss = (trainer.loss.sums(trainer.model(inputs), labels) / denominators).sum()
            accelerator.backward(loss * accelerator.num_processes)  # averaging gradients divides by it
        total += loss.detach()

    clipped, largest = torch.zeros_like(total), job.recipe.optim.clip_grad
    if largest is not None:
        norm = nn.utils.clip_grad_norm_(trainer.bare.parameters(), largest)
        if accelerator.is_main_process:  # the norm is the same on all
            clipped = (norm > largest).to(total)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.ema.update(trainer.bare, step=number + 1)
    return torch.stack([total, clipped]), waited


def require_finite(loss: float, trainer: Trainer) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"{trainer.job.run_dir}: the loss is {loss} by update {trainer.progress.update}. "
            "Lower --optim.lr or set --optim.clip-grad, and start anew with --force."
        )
    return loss
