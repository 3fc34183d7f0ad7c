"""What the loop starts from: loss, initial weights, data, and the pieces that go into a checkpoint."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from cxrlt.errors import UserError
from cxrlt.inputs.augment import build_transform
from cxrlt.inputs.dataset import XRayDataset
from cxrlt.losses import MultiLabelLoss, create_loss, population_minimiser
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import Recipe
from cxrlt.training.checkpoint import load_checkpoint
from cxrlt.training.job import FoldJob
from cxrlt.training.optimise import create_ema, create_optimizer, create_scheduler


@dataclass
class Progress:
    """How far a run has come; travels with every checkpoint."""

    update: int = 0
    loss_sum: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Trainer:
    """The parts of one fold's training. `bare` is the model itself, `model` what is called in training."""

    job: FoldJob
    accelerator: Accelerator
    dataset: XRayDataset
    loss: MultiLabelLoss
    reduction: str
    bare: XRayModel
    model: nn.Module
    ema: ModelEmaV3
    optimizer: Optimizer
    scheduler: CosineLRScheduler
    progress: Progress


def create_accelerator(recipe: Recipe) -> Accelerator:
    """bf16 on a GPU that has it, float32 elsewhere, unless the recipe says which."""
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    # said outright, for without a device accelerate takes the processes of torchrun for strangers
    cpu = not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")


def create_trainer(job: FoldJob, accelerator: Accelerator, n_updates: int) -> Trainer:
    """All parts at their start, or as the last checkpoint left them."""
    cfg = job.recipe
    loss, reduction = create_summed_loss(job)
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
        dataset=training_set(job),
        loss=loss.to(accelerator.device),
        reduction=reduction,
        bare=bare,
        model=accelerator.prepare(bare),
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=Progress(**state) if state else Progress(),
    )


def create_summed_loss(job: FoldJob) -> tuple[MultiLabelLoss, str]:
    """The recipe's loss as a sum, and what the sum over a whole batch is to be divided by.

    A batch may be spread over processes and accumulation steps; only the sum adds up over the parts.
    """
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
    reduction, loss.reduction = loss.reduction, "sum"
    return loss, reduction


def initial_model(job: FoldJob, loss: MultiLabelLoss) -> XRayModel:
    """The recipe's model; its classifier bias starts where the loss is least at each class's prevalence."""
    torch.manual_seed(seed_of(job.seed, job.fold))
    model = create_model(job.recipe.model, len(job.classes), job.recipe.data.size)
    if job.recipe.loss.bias_start == "minimiser":
        known = np.maximum((~np.isnan(job.targets(job.train))).sum(axis=0), 1)
        positives = np.array([job.class_counts[name] for name in job.classes])
        prevalence = torch.from_numpy((positives + 0.5) / (known + 1))
        with torch.no_grad():
            model.classifier.bias.copy_(population_minimiser(loss, prevalence))
    return model


def training_set(job: FoldJob) -> XRayDataset:
    """The fold's training rows, augmented as a function of (seed, epoch, image_id)."""
    cfg = job.recipe.data
    transform = build_transform(cfg.size, **cfg.augment.model_dump())
    ids = list(job.train.index)
    return XRayDataset(job.cache, ids, job.targets(job.train), seed=job.seed, transform=transform)


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
