"""The training loop of one fold."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from cxrlt.inputs.dataset import move_to_device
from cxrlt.inputs.images import release_memory
from cxrlt.system.signals import defer_signals, stop_requested
from cxrlt.training.batches import Batch, batch_stream, global_batch_denominators, halve_micro_batch
from cxrlt.training.epoch_end import end_epoch, save_and_stop, save_checkpoint_if_due, save_final_weights
from cxrlt.training.health_check import log_and_check_finite
from cxrlt.training.job import FoldJob
from cxrlt.training.out_of_memory import explain_out_of_memory
from cxrlt.training.setup import Trainer, create_trainer, derive_seed
from cxrlt.training.soup import apply_soup, save_snapshot

CHECK_EVERY = 10
"""Number of updates between two checks of loss and gradients: each check synchronises the GPU."""


def fit(job: FoldJob, accelerator: Accelerator) -> None:
    """Train a fold or a stage until weights.safetensors is written, from its last checkpoint if there is one.

    After SIGINT or SIGTERM it finishes the current update, writes a checkpoint and stops. Raises UserError if
    loss, gradients or weights become NaN or infinite, or if the device runs out of memory with one row.
    """
    trainer = create_trainer(job, accelerator)
    progress, fold = trainer.progress, job.run.fold
    release_memory()
    if progress.update:
        accelerator.print(f"fold {fold}: continuing from update {progress.update} of {trainer.n_updates}")
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    bar = tqdm(total=trainer.n_updates, initial=progress.update, desc=f"fold {fold}", disable=quiet)
    with defer_signals():
        with closing(batch_stream(trainer)) as stream, bar:
            for epoch in range(len(progress.log), job.recipe.schedule.epochs):
                speed = train_epoch(trainer, epoch, stream, bar)
                save_snapshot(trainer, epoch + 1)
                end_epoch(trainer, epoch, speed)
        if job.recipe.soup.kind != "none":
            apply_soup(trainer)
        if accelerator.is_main_process:
            save_final_weights(trainer)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # otherwise the models of earlier trainings stay on the device


def train_epoch(trainer: Trainer, epoch: int, stream: Iterator[Batch], bar: tqdm) -> dict[str, float]:
    """Make the remaining updates of the epoch; return lr, images_per_s and data_wait_share."""
    progress, end = trainer.progress, (epoch + 1) * trainer.updates_per_epoch
    began, first = time.monotonic(), progress.update
    waited, n_rows = 0.0, 0
    unchecked: list[Tensor] = []
    trainer.loss.set_epoch(epoch)
    trainer.model.train()

    while progress.update < end:
        batch, loss_and_norm = next(stream), None
        trainer.batchnorm_stats.save()
        with suppress(torch.OutOfMemoryError):  # a kept traceback would keep the tensors
            loss_and_norm = train_step(trainer, batch)
        if loss_and_norm is None:
            halve_micro_batch(trainer, batch)  # the stream yields the same batch again
            continue
        unchecked.append(loss_and_norm)
        waited += batch.data_wait_seconds
        n_rows += len(batch.draws)
        progress.update += 1
        bar.update()

        stop_now = trainer.accelerator.num_processes == 1 and stop_requested()  # with more, they agree below
        if progress.update < end and (progress.update - first) % CHECK_EVERY and not stop_now:
            continue
        if log_and_check_finite(trainer, unchecked):
            save_and_stop(trainer)
        unchecked.clear()
        seconds = time.monotonic() - began
        bar.set_postfix_str(f"{n_rows / seconds:.0f} images/s, {waited / seconds:.0%} waiting for data")
        save_checkpoint_if_due(trainer, epoch_is_over=progress.update == end)

    seconds = time.monotonic() - began
    trainer.scheduler.step_update(progress.update - 1)  # a resumed epoch may have no update left to set it
    return {"lr": trainer.lr, "images_per_s": n_rows / seconds, "data_wait_share": waited / seconds}


def train_step(trainer: Trainer, batch: Batch) -> Tensor:
    """Make one update; return loss and gradient norm before clipping, shape (2,), on the device.

    Summed over all processes, these are the values of the global batch. Raises torch.OutOfMemoryError, with
    unchanged weights, if a micro-batch does not fit into the device's memory.
    """
    accelerator, run = trainer.accelerator, trainer.job.run
    trainer.scheduler.step_update(batch.update)
    torch.manual_seed(derive_seed(run.seed, batch.update, accelerator.process_index))  # dropout and drop-path
    total = torch.zeros((), device=accelerator.device)
    for number, (inputs, labels) in enumerate(batch.micro_batches(), start=1):
        inputs = move_to_device(inputs, accelerator.device)
        labels = labels.to(accelerator.device, non_blocking=True)
        if number == 1:
            denominators = global_batch_denominators(trainer, batch, labels)
        with nullcontext() if number == len(batch.local_draws) else accelerator.no_sync(trainer.model):
            loss = (trainer.loss.sums(trainer.model(inputs), labels) / denominators).sum()
            accelerator.backward(loss * accelerator.num_processes)  # DDP divides gradients by it
        total += loss.detach()

    max_norm, weights = run.recipe.optim.clip_grad, list(trainer.raw_model.parameters())
    with explain_out_of_memory():  # a partial update cannot be repeated
        if max_norm is not None:
            norm = nn.utils.clip_grad_norm_(weights, max_norm)
        else:
            norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.ema.update(trainer.raw_model, step=batch.update + 1)
    local_norm = norm if accelerator.is_main_process else torch.zeros_like(norm)  # equal on all processes
    return torch.stack([total, local_norm])
