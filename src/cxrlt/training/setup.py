"""What the loop starts from: loss, initial weights, data, and the pieces that go into a checkpoint."""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrlt.errors import UserError
from cxrlt.losses import Loss, create_loss, loss_names, population_minimiser
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import Recipe
from cxrlt.training.checkpoint import load_checkpoint
from cxrlt.training.data import CaseDataset, training_set
from cxrlt.training.job import FoldJob
from cxrlt.training.optimise import create_ema, create_optimizer, create_scheduler


@dataclass
class Progress:
    """How far a run has come; travels with every checkpoint. The sums are of the epoch under way."""

    update: int = 0
    loss_sum: float = 0.0
    n_clipped: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


@dataclass
class SaveClock:
    """When the run last wrote a checkpoint, or began: seconds of `time.monotonic`."""

    saved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Trainer:
    """The parts of one fold's training. `bare` is the model itself, `model` what is called in training.

    `fixed` are the tensors of a frozen backbone, which `bare` and `ema` then lack.
    """

    job: FoldJob
    accelerator: Accelerator
    dataset: CaseDataset
    loss: Loss
    bare: XRayModel
    model: nn.Module
    ema: ModelEmaV3
    optimizer: Optimizer
    scheduler: Scheduler
    progress: Progress
    clock: SaveClock
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """The whole model with its averaged weights, as weights.safetensors holds it."""
        return {**self.fixed, **self.ema.module.state_dict()}


def create_accelerator(recipe: Recipe) -> Accelerator:
    """bf16 on a GPU that has it, float32 elsewhere, unless the recipe says which."""
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    # said outright, for without a device accelerate takes the processes of torchrun for strangers
    cpu = not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")


def create_trainer(job: FoldJob, accelerator: Accelerator) -> Trainer:
    """All parts at their start, or as the last checkpoint left them."""
    cfg = job.recipe
    dataset = training_set(job)
    n_updates = cfg.schedule.epochs * updates_per_epoch(len(dataset), cfg.optim.batch_size)
    loss = loss_of(job)
    bare = initial_model(job, loss).to(accelerator.device)
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(bare)
    ema = create_ema(bare, cfg.optim.ema_share, n_updates)
    optimizer = create_optimizer(bare, cfg.optim)
    scheduler = create_scheduler(optimizer, cfg.schedule, n_updates)
    state = load_checkpoint(job.run_dir, bare, ema.module, optimizer)
    if cfg.compile:
        compile_in_place(bare, accelerator)
    return Trainer(
        job=job,
        accelerator=accelerator,
        dataset=dataset,
        loss=loss.to(accelerator.device),
        bare=bare,
        model=accelerator.prepare(bare),
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=Progress(**state) if state else Progress(),
        clock=SaveClock(),
    )


def updates_per_epoch(n_rows: int, batch_size: int) -> int:
    """How many batches the rows of a data set make."""
    return -(-n_rows // batch_size)


def loss_of(job: FoldJob) -> Loss:
    """The recipe's loss for this fold's classes. Raises UserError where it does not fit the challenge."""
    try:
        loss = create_loss(
            job.recipe.loss.name,
            classes=job.classes,
            class_counts=job.class_counts,
            n_samples=len(job.train),
            **job.recipe.loss.options,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"loss: {error}") from error
    if (loss.task, job.task) == ("single_label", "multi_label"):
        raise UserError(
            f"loss {job.recipe.loss.name!r} takes one class per image, but those of {job.challenge} have any "
            f"number of them. Losses that fit: {', '.join(loss_names('multi_label'))}."
        )
    return loss


def initial_model(job: FoldJob, loss: Loss) -> XRayModel:
    """The recipe's model; its classifier bias, if it has one, starts where the loss is least on average."""
    torch.manual_seed(seed_of(job.seed, job.fold))
    model = create_model(job.recipe.model, len(job.classes), job.recipe.data.size, job.channels)
    model.logit_scale.fill_(loss.logit_scale)
    bias = model.classifier.bias
    if bias is not None:
        start = torch.zeros(len(job.classes))
        if job.recipe.loss.bias_start == "minimiser":
            start = population_minimiser(loss, torch.tensor(job.targets(job.train)))
        with torch.no_grad():
            bias.copy_(start)
    return model


def worker_count(n_workers: int | None, accelerator: Accelerator) -> int:
    """Loader processes per training process."""
    if n_workers is not None:
        return n_workers
    on_gpu = accelerator.device.type == "cuda"
    return min(8, (os.cpu_count() or 1) // accelerator.num_processes) if on_gpu else 0


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any values, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def compile_in_place(model: nn.Module, accelerator: Accelerator) -> None:
    """Compile where a compiler exists; in place, so that the names of the weights stay as they are."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=accelerator.device))
    except Exception as error:  # a missing compiler shows itself in many ways
        reason = str(error).strip().splitlines()[0]
        accelerator.print(f"compile: no working compiler here ({reason}); training runs uncompiled")
        return
    model.compile()
