"""Setup of a training: loss, initial weights, data, optimiser and the other parts of a `Trainer`."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import LabelledDataset
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.sampling import row_weights
from cxrlt.losses import Loss, create_loss, loss_names, population_minimiser
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.models.transfer import load_weights
from cxrlt.recipe import Recipe
from cxrlt.training.batch_size import min_micro_batch_size, updates_per_epoch, uses_sync_batchnorm
from cxrlt.training.checkpoint import Progress, load_checkpoint, read_tensors
from cxrlt.training.datasets import InputCache, create_train_dataset, micro_batch_size
from cxrlt.training.features import create_feature_cache
from cxrlt.training.job import FoldJob, FoldRun, InitFrom
from cxrlt.training.optim import create_ema, create_optimizer, create_scheduler
from cxrlt.training.out_of_memory import BatchNormStats


@dataclass
class SaveClock:
    """The time of the last checkpoint, or of the start: seconds of `time.monotonic`."""

    saved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Trainer:
    """The parts of one fold's training. `model` is `raw_model`, wrapped for DDP.

    `source` provides images, or the features of a frozen backbone. In the second case `frozen_state` has the
    backbone's tensors, and `raw_model` and `ema` have no backbone. `row_weights` (n_rows,) are the sampling
    weights; None means uniform. `compiled` is False if the recipe compiles but there is no compiler.
    """

    job: FoldJob
    accelerator: Accelerator
    source: InputCache
    dataset: LabelledDataset
    loss: Loss
    raw_model: XRayModel
    model: nn.Module
    ema: ModelEmaV3
    optimizer: Optimizer
    scheduler: Scheduler
    batchnorm_stats: BatchNormStats
    progress: Progress
    clock: SaveClock
    row_weights: np.ndarray | None = None
    compiled: bool = False
    frozen_state: Mapping[str, Tensor] = field(default_factory=dict)
    min_micro_batch_size: int = 1

    @property
    def micro_batch_size(self) -> int:
        """Rows per forward pass: the recipe's number, or fewer after an out-of-memory error."""
        wanted = micro_batch_size(self.job.recipe, self.source)
        return min(wanted, self.progress.micro_batch_size or wanted)

    @property
    def updates_per_epoch(self) -> int:
        """Number of optimiser updates in one epoch."""
        return updates_per_epoch(len(self.dataset), self.job.recipe.optim.batch_size)

    @property
    def n_updates(self) -> int:
        """Number of optimiser updates in the whole run."""
        return self.updates_per_epoch * self.job.recipe.schedule.epochs

    @property
    def lr(self) -> float:
        """Largest learning rate of all parameter groups."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict of the whole model with its EMA weights, as in weights.safetensors."""
        return {**self.frozen_state, **self.ema.module.state_dict()}


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Create the accelerator: bf16 on a GPU that supports it, else float32, unless the recipe sets it."""
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    # benchmark only fixed input sizes: a run has two batch sizes, but studies have any number of images
    torch.backends.cudnn.benchmark = not recipe.uses_fusion
    # explicit: without a GPU, accelerate would otherwise ignore the other processes of torchrun
    cpu = not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")


def create_trainer(job: FoldJob, accelerator: Accelerator) -> Trainer:
    """Create all parts of a training, restored from the last checkpoint if there is one.

    Raises UserError if the loss does not fit the challenge or the initial weights do not fit the model.
    """
    cfg = job.recipe
    loss = create_fold_loss(job)
    model = create_initial_model(job, loss, accelerator.print).to(accelerator.device)
    source: InputCache = job.data.cache
    frozen_state: dict[str, Tensor] = {}
    if cfg.model.frozen:
        model, source, frozen_state = _freeze_backbone(model, job, accelerator)
    dataset = create_train_dataset(job, source)
    n_updates = cfg.schedule.epochs * updates_per_epoch(len(dataset), cfg.optim.batch_size)
    min_rows = min_micro_batch_size(model, job, accelerator)
    if uses_sync_batchnorm(accelerator):
        model = convert_sync_batchnorm(
            model
        )  # torch's function would drop the activations in timm's norm layers
    ema = create_ema(model, cfg.optim.ema_share, n_updates)
    optimizer = create_optimizer(model, cfg.optim)
    scheduler = create_scheduler(optimizer, cfg.schedule, n_updates)
    progress = load_checkpoint(job.run_dir, model, ema.module, optimizer, accelerator.print)
    compiled = cfg.compile and compile_in_place(model, accelerator)
    return Trainer(
        job=job,
        accelerator=accelerator,
        source=source,
        dataset=dataset,
        loss=loss.to(accelerator.device),
        raw_model=model,
        model=accelerator.prepare(model),
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        batchnorm_stats=BatchNormStats(model),
        progress=progress or Progress(),
        clock=SaveClock(),
        row_weights=row_weights(dataset.targets.numpy(), cfg.data.sampling),
        compiled=compiled,
        frozen_state=frozen_state,
        min_micro_batch_size=min_rows,
    )


def _freeze_backbone(
    model: XRayModel, job: FoldJob, accelerator: Accelerator
) -> tuple[XRayModel, FeatureCache, dict[str, Tensor]]:
    """Return the model without backbone, the cache of its input features, and the frozen tensors."""
    n_workers = resolve_n_workers(job.recipe.data.n_workers, accelerator)
    features = create_feature_cache(model, job.recipe, job.data.cache, accelerator, n_workers)
    light = model.without_backbone()
    trained = light.state_dict().keys()
    return light, features, {k: v.cpu() for k, v in model.state_dict().items() if k not in trained}


def create_fold_loss(job: FoldJob) -> Loss:
    """Create the recipe's loss for this fold's classes. Raises UserError if it does not fit the challenge."""
    cfg, challenge, data = job.recipe.loss, job.challenge, job.data
    try:
        loss = create_loss(
            cfg.name,
            classes=data.classes,
            class_counts=data.class_counts,
            n_samples=len(data.train),
            **cfg.options,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"loss: {error}") from error
    if (loss.task, challenge.task) == ("single_label", "multi_label"):
        raise UserError(
            f"loss {cfg.name!r} needs exactly one class per image, but {challenge.name} is multi-label. "
            f"Losses that fit: {', '.join(loss_names('multi_label'))}."
        )
    return loss


def create_initial_model(
    job: FoldJob, loss: Loss, log: Callable[[str], object] = lambda _: None
) -> XRayModel:
    """Create the recipe's model with its initial weights; `log` is called with a message about them.

    The bias of a new classifier starts at the minimum of the mean loss (loss.bias_init). Raises UserError if
    the weights do not fit.
    """
    run, data = job.run, job.data
    torch.manual_seed(derive_seed(run.seed, run.fold))
    cfg, size, channels = run.recipe.model, run.recipe.data.size, job.challenge.channels
    model = create_model(
        cfg, len(data.classes), size, channels, load_pretrained=run.init_from is None, log=log
    )
    new_parts = _load_init_from(model, run, run.init_from, log) if run.init_from else ["head"]
    model.logit_scale.fill_(loss.logit_scale)
    bias = cast(Tensor | None, model.classifier.bias)
    if bias is not None and "head" in new_parts:
        start = torch.zeros(len(data.classes))
        if run.recipe.loss.bias_init == "minimiser":
            start = population_minimiser(loss, torch.tensor(data.targets(data.train)))
        with torch.no_grad():
            bias.copy_(start)
    return model


def _load_init_from(
    model: XRayModel, run: FoldRun, init_from: InitFrom, log: Callable[[str], object]
) -> list[str]:
    """Load the weights; return the parts that keep their new random weights."""
    tensors = read_tensors(init_from.weights)
    new_parts = load_weights(model, tensors, same_classes=init_from.same_classes, source=init_from.label)
    parts = ["backbone", *(["fusion"] if run.recipe.uses_fusion else []), "head"]
    loaded = " and ".join(part for part in parts if part not in new_parts)
    new = f"; new: {' and '.join(new_parts)}" if new_parts else ""
    log(f"fold {run.fold}: {loaded} from {init_from.label}{new}")
    return new_parts


def resolve_n_workers(n_workers: int | None, accelerator: Accelerator) -> int:
    """Return the number of data loader workers per training process: `n_workers`, or a default if None."""
    if n_workers is not None:
        return n_workers
    on_gpu = accelerator.device.type == "cuda"
    return min(8, (os.cpu_count() or 1) // accelerator.num_processes) if on_gpu else 0


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed derived from any values, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def compile_in_place(model: nn.Module, accelerator: Accelerator) -> bool:
    """Compile `model` in place, which keeps the names of its weights; return whether a compiler works.

    If not, the reason is printed.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=accelerator.device))
    except Exception as error:  # a missing compiler raises many kinds of errors
        reason = str(error).strip().splitlines()[0]
        accelerator.print(f"compile: no working compiler ({reason}); training without torch.compile")
        return False
    model.compile()
    return True
