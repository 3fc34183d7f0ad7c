"""The training loop of one fold."""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from cxrlt.inputs.dataset import Inputs, on_device
from cxrlt.inputs.memory import give_back_memory
from cxrlt.system.signals import asked_to_stop, put_off
from cxrlt.training.batch_size import updates_per_epoch
from cxrlt.training.batches import batches_of, load, share_of, take_half, whole_batch_denominators
from cxrlt.training.health_check import take_stock
from cxrlt.training.job import FoldJob
from cxrlt.training.memory import unless_full
from cxrlt.training.setup import Trainer, create_trainer, seed_of
from cxrlt.training.soup import keep_snapshot, pour
from cxrlt.training.validate import end_epoch, keep_weights, save_and_stop, save_if_due, validation_scores

MicroBatches = Iterator[tuple[Inputs, Tensor]]
CHECK_EVERY = 10  # updates between two looks at what they came to; each look waits for the device


def fit(job: FoldJob, accelerator: Accelerator) -> None:
    """Train one fold to its weights.safetensors, going on from its last checkpoint if there is one.

    Asked to stop by a signal, it finishes the update under way and writes a checkpoint first.
    """
    trainer = create_trainer(job, accelerator)
    give_back_memory()
    with put_off():
        train_epochs(trainer)
        if job.recipe.soup.kind != "none":
            pour(trainer)
        if accelerator.is_main_process:
            keep_weights(trainer)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it would keep the models of all trainings before the next on the device


def train_epochs(trainer: Trainer) -> None:
    """Every epoch that is not in the log yet."""
    job, accelerator, progress = trainer.job, trainer.accelerator, trainer.progress
    per_epoch = updates_per_epoch(len(trainer.dataset), job.recipe.optim.batch_size)
    n_updates = per_epoch * job.recipe.schedule.epochs
    if progress.update:
        accelerator.print(f"fold {job.fold}: going on from update {progress.update} of {n_updates}")
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    micro_batches = load(trainer)
    with tqdm(total=n_updates, initial=progress.update, desc=f"fold {job.fold}", disable=quiet) as bar:
        for epoch in range(len(progress.log), job.recipe.schedule.epochs):
            speed = train_epoch(trainer, epoch, micro_batches, bar)
            keep_snapshot(trainer, epoch + 1)
            means = {"loss": progress.loss_sum / per_epoch, "clipped_share": progress.n_clipped / per_epoch}
            end_epoch(trainer, {"epoch": epoch + 1} | means | validation_scores(trainer) | speed)


def train_epoch(trainer: Trainer, epoch: int, micro_batches: MicroBatches, bar: tqdm) -> dict[str, float]:
    """Every batch of the epoch that is not done yet. Returns learning rate and speed."""
    job, accelerator, progress = trainer.job, trainer.accelerator, trainer.progress
    per_epoch = updates_per_epoch(len(trainer.dataset), job.recipe.optim.batch_size)
    batches = batches_of(trainer, epoch, progress.update - epoch * per_epoch)
    began = time.monotonic()
    waited, n_rows = 0.0, 0
    pending: list[Tensor] = []
    trainer.loss.set_epoch(epoch)
    trainer.model.train()

    for number, batch in enumerate(batches, start=1):
        came_to, wait = update(trainer, epoch, batch, micro_batches)
        pending.append(came_to)
        waited += wait
        n_rows += len(batch)
        progress.update += 1
        bar.update()
        stop_now = accelerator.num_processes == 1 and asked_to_stop()  # else all need to hear of it
        if number < len(batches) and number % CHECK_EVERY and not stop_now:
            continue
        if take_stock(trainer, pending):
            save_and_stop(trainer)
        pending.clear()
        seconds = time.monotonic() - began
        bar.set_postfix_str(f"{n_rows / seconds:.0f} images/s, {waited / seconds:.0%} waiting for data")
        save_if_due(trainer, epoch_is_over=number == len(batches))

    seconds = time.monotonic() - began
    trainer.scheduler.step_update(progress.update - 1)  # if the epoch was over before, nothing else has
    lr = max(group["lr"] for group in trainer.optimizer.param_groups)
    return {"lr": lr, "images_per_s": n_rows / seconds, "data_wait_share": waited / seconds}


def update(
    trainer: Trainer, epoch: int, batch: np.ndarray, micro_batches: MicroBatches
) -> tuple[Tensor, float]:
    """One step. Returns two numbers to be summed over processes, and the seconds it waited for data.

    The two, (2,) on the device, are the batch's loss and the norm of its gradient before it is clipped.
    """
    job, accelerator, number = trainer.job, trainer.accelerator, trainer.progress.update
    trainer.scheduler.step_update(number)
    trainer.statistics.keep()
    while (done := unless_full(partial(accumulate, trainer, epoch, batch, micro_batches))) is None:
        take_half(trainer, batch)  # from here on in `micro_batches`, too
    loss, waited = done

    largest, weights = job.recipe.optim.clip_grad, list(trainer.bare.parameters())
    if largest is not None:
        norm = nn.utils.clip_grad_norm_(weights, largest)
    else:
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.ema.update(trainer.bare, step=number + 1)
    counted = norm if accelerator.is_main_process else torch.zeros_like(norm)  # it is the same on all
    return torch.stack([loss, counted]), waited


def accumulate(
    trainer: Trainer, epoch: int, batch: np.ndarray, micro_batches: MicroBatches
) -> tuple[Tensor, float]:
    """Add up the gradient of the batch. Returns this process's part of the loss, and the seconds waited."""
    accelerator, number = trainer.accelerator, trainer.progress.update
    torch.manual_seed(seed_of(trainer.job.seed, number, accelerator.process_index))  # dropout and drop-path
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
    return total, waited
