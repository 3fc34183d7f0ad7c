"""Benchmarks of training and prediction against the same passes on tensors on the device."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.synthetic_fold import make_synthetic_fold
from benchmarks.timing import time_interleaved
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import Recipe, TTAConfig, load_recipe, override_recipe
from cxrlt.training.batches import Batch, batch_stream
from cxrlt.training.datasets import create_eval_dataset, micro_batch_size
from cxrlt.training.infer import infer
from cxrlt.training.loop import train_epoch, train_step
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer, resolve_n_workers

CPU_RECIPES = ("demo_resnet",)
GPU_RECIPES = ("ral_convnext_small", "ral_efficientnetv2_s")
COMPILED_RECIPE = "ral_convnext_small"
"""On a GPU this recipe is also measured with torch.compile."""
GPU_SIZE = 384
N_IMAGES = {"cpu": 640, "cuda": 6400}
MIN_IMAGES = {"cpu": 160, "cuda": 640}
N_ROUNDS = 7
TARGET = {"cpu": 0.95, "cuda": 0.97}
PREDICT_TARGET = 0.97
FLIP_TTA = TTAConfig(flip=True)
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
TOLERANCE = {"no": 1e-4, "bf16": 3e-2}
"""Largest difference of logits from another order of summation, by mixed precision."""


def measure_train(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare an epoch with the same steps on batches on the device, and measure FLOPs."""
    flops: dict[str, float] = {}
    for name in device_recipes():
        trainer = _trainer(bench_recipe(name), config.folder / name, config)
        flops[name] = flops_per_image(trainer)
        yield from _train_rows(trainer, flops[name])
    if COMPILED_RECIPE in flops:
        recipe = override_recipe(bench_recipe(COMPILED_RECIPE), {"compile": True})
        trainer = _trainer(recipe, config.folder / "compiled", config)
        if trainer.compiled:
            yield from _train_rows(trainer, flops[COMPILED_RECIPE])


def measure_predict(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare `infer` with flip TTA with the same forward passes."""
    name = device_recipes()[0]
    trainer = _trainer(bench_recipe(name), config.folder / name, config)
    job, accelerator = trainer.job, trainer.accelerator
    model, device = trainer.ema.module, accelerator.device
    data, ids = job.data, list(job.data.train.index)
    batch_size = micro_batch_size(job.recipe, trainer.source)
    image_batches = _images(trainer, len(ids)).to(device).split(batch_size)
    results: dict[str, np.ndarray] = {}

    def ours() -> None:
        results["ours"] = infer(
            model,
            create_eval_dataset(job.recipe, data.train, data.classes, data.cache),
            ids,
            data.classes,
            accelerator,
            task=job.challenge.task,
            batch_size=batch_size,
            n_workers=resolve_n_workers(job.recipe.data.n_workers, accelerator),
            tta=FLIP_TTA,
        ).to_numpy()

    def passes() -> None:
        with torch.inference_mode(), accelerator.autocast():
            logits = torch.cat([_flip_tta_logits(model, images) for images in image_batches])
        results["passes"] = logits.cpu().numpy()

    model.eval()
    passes()  # warm-up: chooses kernels and allocates memory
    seconds, passes_s = time_interleaved(ours, passes, repeats=N_ROUNDS, clock=time.perf_counter)
    passes_only = ReferenceValue("both forward passes only", len(ids) / passes_s)
    yield Measurement(
        f"predict, flip: {recipe_label(job.recipe)}",
        len(ids) / seconds,
        "images/s",
        passes_only,
        PREDICT_TARGET,
        passes_only,
        note=_describe_conditions(trainer),
        error=_difference(results["ours"], results["passes"], TOLERANCE[accelerator.mixed_precision]),
    )


def device_recipes() -> tuple[str, ...]:
    """Return the recipes for this machine's device."""
    return GPU_RECIPES if torch.cuda.is_available() else CPU_RECIPES


def bench_recipe(name: str) -> Recipe:
    """Return the recipe with random weights and many epochs; GPU recipes at GPU_SIZE."""
    overrides: dict[str, dict[str, object]] = {"model": {"pretrained": False}, "schedule": {"epochs": 1000}}
    if name in GPU_RECIPES:
        overrides["data"] = {"size": GPU_SIZE}
    return override_recipe(load_recipe(name), overrides)


def _trainer(recipe: Recipe, folder: Path, config: BenchmarkConfig) -> Trainer:
    accelerator = create_accelerator(recipe)
    device = accelerator.device.type
    n_images = config.size(N_IMAGES[device], MIN_IMAGES[device])
    return create_trainer(make_synthetic_fold(folder, recipe, n_images), accelerator)


def create_epoch_runner(trainer: Trainer) -> Callable[[], dict[str, float]]:
    """Return a function that trains one more epoch at every call and returns its speed."""
    stream, speeds = batch_stream(trainer), []

    def one_more() -> dict[str, float]:
        speeds.append(train_epoch(trainer, len(speeds), stream, tqdm(disable=True)))
        _synchronize(trainer.accelerator.device)
        return speeds[-1]

    return one_more


def _train_rows(trainer: Trainer, flops: float) -> Iterator[Measurement]:
    device, n_images = trainer.accelerator.device, len(trainer.dataset)
    batches = _device_batches(device, trainer)
    run_epoch, speeds = create_epoch_runner(trainer), []

    def ours() -> None:
        speeds.append(run_epoch())

    def steps() -> None:
        trainer.model.train()
        for update, (images, labels) in enumerate(batches):
            train_step(trainer, device_batch(images, labels, update))
        _synchronize(device)

    ours()  # warm-up: starts loader workers, chooses kernels and allocates memory
    steps()
    seconds, steps_s = time_interleaved(ours, steps, repeats=N_ROUNDS, clock=time.perf_counter)
    shares = _shares(trainer, batches)
    passes = n_images / steps_s / (shares["forward"] + shares["backward"])
    waiting = min(speed["data_wait_share"] for speed in speeds[1:])
    spent = ", ".join(f"{part} {scale:.0%}" for part, scale in shares.items())
    label, rate = recipe_label(trainer.job.recipe), n_images / seconds
    yield Measurement(
        f"train: {label}",
        rate,
        "images/s",
        ReferenceValue("the same steps on tensors on the device", n_images / steps_s),
        TARGET[device.type],
        ReferenceValue("forward and backward only", passes),
        note=f"{_describe_conditions(trainer)}; waiting for data {waiting:.1%}; parts of a step: {spent}",
    )
    if device.type == "cuda":  # on a CPU one noisy matrix product is no limit
        yield measure_flops(trainer, rate, flops)


def measure_flops(trainer: Trainer, rate: float, flops: float) -> Measurement:
    """Return the FLOP/s of training at `rate` images/s with `flops` per image, and the device's limit."""
    side = MATMUL_SIDE[trainer.accelerator.device.type]
    return Measurement(
        f"train FLOPs: {recipe_label(trainer.job.recipe)}",
        rate * flops / 1e12,
        "TFLOP/s",
        limit=ReferenceValue(f"matrix product of size {side:,}", matmul_flops_per_second(trainer) / 1e12),
        note=f"{flops / 1e9:.3g} GFLOP per image, forward and backward",
    )


def device_batch(images: Tensor, labels: Tensor, update: int) -> Batch:
    """Return a batch of images (n, 1, h, w) and labels (n, c) on the device."""
    draws = np.arange(len(labels))
    return Batch(0, update, draws, [draws], iter([({"images": images}, labels)]))


@dataclass
class StepTimer:
    """Time of each part of a step. On a GPU it synchronises only in `shares`."""

    device: torch.device
    marks: list[tuple[str, float | torch.cuda.Event]] = field(default_factory=list)

    def mark(self, part: str) -> None:
        """Record the end of `part`. The first call starts the clock."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def shares(self, start: str) -> dict[str, float]:
        """Return each part's share of the time between marks, without the time before each mark `start`."""
        _synchronize(self.device)
        seconds: dict[str, float] = {}
        for (_, before), (part, after) in zip(self.marks, self.marks[1:], strict=False):
            if part != start:
                spent = after - before if isinstance(after, float) else before.elapsed_time(after)
                seconds[part] = seconds.get(part, 0.0) + spent
        return {part: spent / sum(seconds.values()) for part, spent in seconds.items()}


def _shares(trainer: Trainer, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    parts, backward = StepTimer(trainer.accelerator.device), trainer.accelerator.backward

    def marked_backward(loss: Tensor) -> None:
        parts.mark("forward")
        backward(loss)
        parts.mark("backward")

    trainer.model.train()
    hook = trainer.optimizer.register_step_post_hook(lambda *_: parts.mark("clip and optimiser"))
    with patch.object(trainer.accelerator, "backward", marked_backward):
        for update, (images, labels) in enumerate(batches[:20]):
            parts.mark("start")
            train_step(trainer, device_batch(images, labels, update))
            parts.mark("average")
    hook.remove()
    return parts.shares("start")


def _device_batches(device: torch.device, trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of one epoch from the cache, without augmentation, on the device."""
    n_images = len(trainer.dataset)
    pieces = np.array_split(np.arange(n_images), -(-n_images // trainer.job.recipe.optim.batch_size))
    images, labels = _images(trainer, n_images), trainer.dataset.targets
    return [(images[rows].to(device), labels[rows].to(device)) for rows in pieces]


def _images(trainer: Trainer, n_images: int) -> Tensor:
    return torch.from_numpy(np.array(trainer.job.data.cache.images[:n_images]))[:, None]


def _flip_tta_logits(model: XRayModel, images: Tensor) -> Tensor:
    return (model.predict({"images": images}) + model.predict({"images": images.flip(-1)})) / 2


def flops_per_image(trainer: Trainer) -> float:
    """Return the FLOPs of one forward and backward pass of one image, as counted by torch."""
    images, labels = _device_batches(trainer.accelerator.device, trainer)[0]
    with FlopCounterMode(display=False) as counter:
        trainer.loss.sums(trainer.model({"images": images}), labels).sum().backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(labels)


def matmul_flops_per_second(trainer: Trainer) -> float:
    """Return the FLOP/s of one large matrix product in the training precision."""
    device = trainer.accelerator.device
    side = MATMUL_SIDE[device.type]
    kind = torch.bfloat16 if trainer.accelerator.mixed_precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        _synchronize(device)

    return 2 * side**3 / time_interleaved(product, repeats=10, clock=time.perf_counter)[0]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recipe_label(recipe: Recipe) -> str:
    """Return the backbone and the image size as text."""
    compiled = " compiled" if recipe.compile else ""
    return f"{recipe.model.backbone.split('.')[0]}, {recipe.data.size} px{compiled}"


def _describe_conditions(trainer: Trainer) -> str:
    cfg, accelerator = trainer.job.recipe, trainer.accelerator
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "float32"
    how = "compiled" if trainer.compiled else "not compiled"
    n_workers = resolve_n_workers(cfg.data.n_workers, accelerator)
    return f"batches of {cfg.optim.batch_size}, {precision}, {how}, {n_workers} loader processes"


def _difference(results: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """Return the difference of the logits as text; empty within the tolerance."""
    worst = float(np.abs(results - expected).max())
    return "" if worst <= tolerance else f"logits differ by {worst:.2g} from those of the forward passes only"
