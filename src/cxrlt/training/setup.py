"""What the loop starts from: loss, initial weights, data, and the pieces that go into a checkpoint."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import LabelledRows
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.sampling import row_weights
from cxrlt.losses import Loss, create_loss, loss_names, population_minimiser
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.models.transfer import load_weights
from cxrlt.recipe import Recipe
from cxrlt.training.batch_size import rows_needed, synchronises_batchnorm, updates_per_epoch
from cxrlt.training.checkpoint import Progress, load_checkpoint, read_tensors
from cxrlt.training.data import InputCache, rows_per_pass, training_set
from cxrlt.training.features import feature_cache
from cxrlt.training.job import FoldJob, FoldRun, InitFrom
from cxrlt.training.optimise import create_ema, create_optimizer, create_scheduler
from cxrlt.training.out_of_memory import RunningStatistics


@dataclass
class SaveClock:
    """When the run last wrote a checkpoint, or began: seconds of `time.monotonic`."""

    saved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Trainer:
    """The parts of one fold's training. `model` is what training calls: `raw_model`, wrapped for DDP.

    `source` is where rows are read from: images, or the features of a frozen backbone, whose tensors are then
    the `frozen_state`, and which `raw_model` and `ema` lack. `row_weights` says how often each row is drawn,
    None: all alike. `compiled`: whether `model` is, which the recipe may ask for where no compiler is.
    `rows_needed` is how many rows a micro-batch has to have.
    """

    job: FoldJob
    accelerator: Accelerator
    source: InputCache
    dataset: LabelledRows
    loss: Loss
    raw_model: XRayModel
    model: nn.Module
    ema: ModelEmaV3
    optimizer: Optimizer
    scheduler: Scheduler
    statistics: RunningStatistics
    progress: Progress
    clock: SaveClock
    row_weights: np.ndarray | None = None
    compiled: bool = False
    frozen_state: Mapping[str, Tensor] = field(default_factory=dict)
    rows_needed: int = 1

    @property
    def rows_per_pass(self) -> int:
        """Rows that the device computes at once: as the recipe says, or fewer where its memory is smaller."""
        wanted = rows_per_pass(self.job.recipe, self.source)
        return min(wanted, self.progress.rows_per_pass or wanted)

    @property
    def updates_per_epoch(self) -> int:
        return updates_per_epoch(len(self.dataset), self.job.recipe.optim.batch_size)

    @property
    def n_updates(self) -> int:
        """Of the whole run."""
        return self.updates_per_epoch * self.job.recipe.schedule.epochs

    @property
    def lr(self) -> float:
        """The largest learning rate of all groups of weights."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def weights(self) -> dict[str, Tensor]:
        """The whole model with its averaged weights, as weights.safetensors holds it."""
        return {**self.frozen_state, **self.ema.module.state_dict()}


def create_accelerator(recipe: Recipe) -> Accelerator:
    """bf16 on a GPU that has it, float32 elsewhere, unless the recipe says which."""
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    # batches of one run have two sizes; images of studies that pass together are never as many
    torch.backends.cudnn.benchmark = not recipe.uses_fusion
    # said outright, for without a device accelerate takes the processes of torchrun for strangers
    cpu = not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")


def create_trainer(job: FoldJob, accelerator: Accelerator) -> Trainer:
    """All parts at their start, or as the last checkpoint left them."""
    cfg = job.recipe
    loss = loss_of(job)
    model = initial_model(job, loss, accelerator.print).to(accelerator.device)
    source, frozen_state = job.data.cache, {}
    if cfg.model.frozen:
        model, source, frozen_state = _frozen(model, job, accelerator)
    dataset = training_set(job, source)
    n_updates = cfg.schedule.epochs * updates_per_epoch(len(dataset), cfg.optim.batch_size)
    needed = rows_needed(model, job, accelerator)
    if synchronises_batchnorm(accelerator):
        model = convert_sync_batchnorm(model)  # torch's own would drop the activations in timm's
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
        statistics=RunningStatistics(model),
        progress=progress or Progress(),
        clock=SaveClock(),
        row_weights=row_weights(dataset.targets.numpy(), cfg.data.sampling),
        compiled=compiled,
        frozen_state=frozen_state,
        rows_needed=needed,
    )


def _frozen(
    model: XRayModel, job: FoldJob, accelerator: Accelerator
) -> tuple[XRayModel, FeatureCache, dict[str, Tensor]]:
    """What is trained where the backbone stays as it is, on its features, and the tensors that stay."""
    n_workers = worker_count(job.recipe.data.n_workers, accelerator)
    features = feature_cache(model, job.recipe, job.data.cache, accelerator, n_workers)
    light = model.without_backbone()
    trained = light.state_dict().keys()
    return light, features, {k: v.cpu() for k, v in model.state_dict().items() if k not in trained}


def loss_of(job: FoldJob) -> Loss:
    """The recipe's loss for this fold's classes. Raises UserError where it does not fit the challenge."""
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
            f"loss {cfg.name!r} takes one class per image, but those of {challenge.name} have any "
            f"number of them. Losses that fit: {', '.join(loss_names('multi_label'))}."
        )
    return loss


def initial_model(job: FoldJob, loss: Loss, say: Callable[[str], object] = lambda _: None) -> XRayModel:
    """The recipe's model, with the weights that the job starts from; `say` is told which those are.

    The bias of a new classifier, if it has one, starts where the loss is least on average.
    """
    run, data = job.run, job.data
    torch.manual_seed(seed_of(run.seed, run.fold))
    cfg = run.recipe.model
    if run.init_from:
        cfg = cfg.model_copy(update={"pretrained": False})
    model = create_model(cfg, len(data.classes), run.recipe.data.size, job.challenge.channels)
    new = _load_init_from(model, run, run.init_from, say) if run.init_from else ["head"]
    model.logit_scale.fill_(loss.logit_scale)
    bias = model.classifier.bias
    if bias is not None and "head" in new:
        start = torch.zeros(len(data.classes))
        if run.recipe.loss.bias_init == "minimiser":
            start = population_minimiser(loss, torch.tensor(data.targets(data.train)))
        with torch.no_grad():
            bias.copy_(start)
    return model


def _load_init_from(
    model: XRayModel, run: FoldRun, init_from: InitFrom, say: Callable[[str], object]
) -> list[str]:
    """Load the weights. Returns the parts that stay as they were created."""
    tensors = read_tensors(init_from.weights)
    new = load_weights(model, tensors, same_classes=init_from.same_classes, source=init_from.label)
    parts = ["backbone", *(["fusion"] if run.recipe.uses_fusion else []), "head"]
    loaded = " and ".join(part for part in parts if part not in new)
    say(f"fold {run.fold}: {loaded} from {init_from.label}" + (f"; new: {' and '.join(new)}" if new else ""))
    return new


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


def compile_in_place(model: nn.Module, accelerator: Accelerator) -> bool:
    """Compile where a compiler exists; in place, so that the names of the weights stay as they are.

    Returns whether it is; if not, the reason is printed.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=accelerator.device))
    except Exception as error:  # a missing compiler shows itself in many ways
        reason = str(error).strip().splitlines()[0]
        accelerator.print(f"compile: no working compiler here ({reason}); training runs uncompiled")
        return False
    model.compile()
    return True
