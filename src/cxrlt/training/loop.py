"""The training loop of one fold."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from cxrlt.inputs.dataset import on_device
from cxrlt.inputs.images import give_back_memory
from cxrlt.system.signals import asked_to_stop, put_off
from cxrlt.training.batches import Batch, batch_stream, halve_micro_batch, whole_batch_denominators
from cxrlt.training.epoch_end import end_epoch, save_and_stop, save_final_weights, save_if_due
from cxrlt.training.health_check import log_and_check_finite
from cxrlt.training.job import FoldJob
from cxrlt.training.out_of_memory import explain_out_of_memory
from cxrlt.training.setup import Trainer, create_trainer, seed_of
from cxrlt.training.soup import apply_soup, keep_snapshot

CHECK_EVERY = 10
"""Loss and gradients are checked every so many updates: each check synchronises the GPU."""


def fit(job: FoldJob, accelerator: Accelerator) -> None:
    """Train a fold or a stage to its weights.safetensors, going on from its last checkpoint if there is one.

    Asked to stop by a signal, it finishes the update under way and writes a checkpoint first.
    """
    trainer = create_trainer(job, accelerator)
    progress, fold = trainer.progress, job.run.fold
    give_back_memory()
    if progress.update:
        accelerator.print(f"fold {fold}: going on from update {progress.update} of {trainer.n_updates}")
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    bar = tqdm(total=trainer.n_updates, initial=progress.update, desc=f"fold {fold}", disable=quiet)
    with put_off():
        with closing(batch_stream(trainer)) as stream, bar:
            for epoch in range(len(progress.log), job.recipe.schedule.epochs):
                speed = train_epoch(trainer, epoch, stream, bar)
                keep_snapshot(trainer, epoch + 1)
                end_epoch(trainer, epoch, speed)
        if job.recipe.soup.kind != "none":
            apply_soup(trainer)
        if accelerator.is_main_process:
            save_final_weights(trainer)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it would keep the models of all trainings before the next on the device


def train_epoch(trainer: Trainer, epoch: int, stream: Iterator[Batch], bar: tqdm) -> dict[str, float]:
    """The updates of the epoch that are not made yet. Returns learning rate and speed."""
    progress, end = trainer.progress, (epoch + 1) * trainer.updates_per_epoch
    began, first = time.monotonic(), progress.update
    waited, n_rows = 0.0, 0
    unchecked: list[Tensor] = []
    trainer.loss.set_epoch(epoch)
    trainer.model.train()

    while progress.update < end:
        batch, loss_and_norm = next(stream), None
        trainer.statistics.keep()
        with suppress(torch.OutOfMemoryError):  # its traceback would hold on to what was computed
            loss_and_norm = train_step(trainer, batch)
        if loss_and_norm is None:
            halve_micro_batch(trainer, batch)  # the stream gives the same batch again
            continue
        unchecked.append(loss_and_norm)
        waited += batch.seconds_waited
        n_rows += len(batch.draws)
        progress.update += 1
        bar.update()

        stop_now = trainer.accelerator.num_processes == 1 and asked_to_stop()  # else all need to hear of it
        if progress.update < end and (progress.update - first) % CHECK_EVERY and not stop_now:
            continue
        if log_and_check_finite(trainer, unchecked):
            save_and_stop(trainer)
        unchecked.clear()
        seconds = time.monotonic() - began
        bar.set_postfix_str(f"{n_rows / seconds:.0f} images/s, {waited / seconds:.0%} waiting for data")
        save_if_due(trainer, epoch_is_over=progress.update == end)

    seconds = time.monotonic() - began
    trainer.scheduler.step_update(progress.update - 1)  # if the epoch was over before, nothing else has
    return {"lr": trainer.lr, "images_per_s": n_rows / seconds, "data_wait_share": waited / seconds}


def train_step(trainer: Trainer, batch: Batch) -> Tensor:
    """One update. Returns two numbers to be summed over processes: (2,) on the device.

    They are the batch's loss and the norm of its gradient before it is clipped. Raises
    torch.OutOfMemoryError, the weights as before, where the device's memory does not hold a micro-batch.
    """
    accelerator, run = trainer.accelerator, trainer.job.run
    trainer.scheduler.step_update(batch.update)
    torch.manual_seed(seed_of(run.seed, batch.update, accelerator.process_index))  # dropout and drop-path
    total = torch.zeros((), device=accelerator.device)
    for number, (inputs, labels) in enumerate(batch.micro_batches(), start=1):
        inputs = on_device(inputs, accelerator.device)
        labels = labels.to(accelerator.device, non_blocking=True)
        if number == 1:
            denominators = whole_batch_denominators(trainer, batch, labels)
        with nullcontext() if number == len(batch.share) else accelerator.no_sync(trainer.model):
            loss = (trainer.loss.sums(trainer.model(inputs), labels) / denominators).sum()
            accelerator.backward(loss * accelerator.num_processes)  # averaging gradients divides by it
        total += loss.detach()

    largest, weights = run.recipe.optim.clip_grad, list(trainer.raw_model.parameters())
    with explain_out_of_memory():  # an update half made cannot be repeated
        if largest is not None:
            norm = nn.utils.clip_grad_norm_(weights, largest)
        else:
            norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.ema.update(trainer.raw_model, step=batch.update + 1)
    counted = norm if accelerator.is_main_process else torch.zeros_like(norm)  # it is the same on all
    return torch.stack([total, counted])
