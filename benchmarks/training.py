"""Training and prediction against the same passes on tensors that lie on the device already."""

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

from benchmarks.clock import race
from benchmarks.fold import generated_fold
from benchmarks.rows import Mark, Row
from benchmarks.setting import Setting
from cxrlt.models.backbone import XRayModel
from cxrlt.recipe import Recipe, TTAConfig, override_recipe, load_recipe
from cxrlt.training.batches import Batch, batch_stream
from cxrlt.training.data import evaluation_set, rows_per_pass
from cxrlt.training.infer import infer
from cxrlt.training.loop import train_epoch, train_step
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer, worker_count

ON_CPU = ("demo_resnet",)
ON_GPU = ("ral_convnext_small", "ral_efficientnetv2_s")
COMPILED = "ral_convnext_small"
"""On a GPU this one is trained compiled, too."""
GPU_SIZE = 384
N_IMAGES = {"cpu": 640, "cuda": 6400}
LEAST_IMAGES = {"cpu": 160, "cuda": 640}
ROUNDS = 7
TARGET = {"cpu": 0.95, "cuda": 0.97}
TARGET_PREDICT = 0.97
FLIP = TTAConfig(flip=True)
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
TOLERANCE = {"no": 1e-4, "bf16": 3e-2}
"""Largest difference of logits that differ in nothing but the order of sums, by mixed precision."""


def train_rows(setting: Setting) -> Iterator[Row]:
    """Images per second of an epoch and of the same steps on batches that are there, and its arithmetic."""
    flops: dict[str, float] = {}
    for name in recipes_here():
        trainer = _trainer(bench_recipe(name), setting.folder / name, setting)
        flops[name] = flops_of_image(trainer)
        yield from _train_rows(trainer, flops[name])
    if COMPILED in flops:
        recipe = override_recipe(bench_recipe(COMPILED), {"compile": True})
        trainer = _trainer(recipe, setting.folder / "compiled", setting)
        if trainer.compiled:
            yield from _train_rows(trainer, flops[COMPILED])


def predict_rows(setting: Setting) -> Iterator[Row]:
    """Images per second of `infer` with mirror images, and of the same forward passes."""
    name = recipes_here()[0]
    trainer = _trainer(bench_recipe(name), setting.folder / name, setting)
    job, accelerator = trainer.job, trainer.accelerator
    model, device = trainer.ema.module, accelerator.device
    data, ids = job.data, list(job.data.train.index)
    batch_size = rows_per_pass(job.recipe, trainer.source)
    on_device = _images(trainer, len(ids)).to(device).split(batch_size)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = infer(
            model,
            evaluation_set(job.recipe, data.train, data.classes, data.cache),
            ids,
            data.classes,
            accelerator,
            task=job.challenge.task,
            batch_size=batch_size,
            n_workers=worker_count(job.recipe.data.n_workers, accelerator),
            tta=FLIP,
        ).to_numpy()

    def passes() -> None:
        with torch.inference_mode(), accelerator.autocast():
            logits = torch.cat([_both_ways(model, images) for images in on_device])
        found["passes"] = logits.cpu().numpy()

    model.eval()
    passes()  # kernels are chosen and memory is taken the first time
    seconds, alone_s = race(ours, passes, repeats=ROUNDS, clock=time.perf_counter)
    alone = Mark("both forward passes alone", len(ids) / alone_s)
    yield Row(
        f"predict, flip: {label_of(job.recipe)}",
        len(ids) / seconds,
        "images/s",
        alone,
        TARGET_PREDICT,
        alone,
        note=_conditions(trainer),
        wrong=_difference(found["ours"], found["passes"], TOLERANCE[accelerator.mixed_precision]),
    )


def recipes_here() -> tuple[str, ...]:
    """What is trained on this machine's device."""
    return ON_GPU if torch.cuda.is_available() else ON_CPU


def bench_recipe(name: str) -> Recipe:
    """The recipe with random weights; on a GPU at GPU_SIZE, and for more epochs than are measured."""
    over: dict[str, dict[str, object]] = {"model": {"pretrained": False}, "schedule": {"epochs": 1000}}
    if name in ON_GPU:
        over["data"] = {"size": GPU_SIZE}
    return override_recipe(load_recipe(name), over)


def _trainer(recipe: Recipe, folder: Path, setting: Setting) -> Trainer:
    accelerator = create_accelerator(recipe)
    device = accelerator.device.type
    n_images = setting.size(N_IMAGES[device], LEAST_IMAGES[device])
    return create_trainer(generated_fold(folder, recipe, n_images), accelerator)


def epochs(trainer: Trainer) -> Callable[[], dict[str, float]]:
    """What trains one more epoch at every call, by the loop of every training, and returns its speed."""
    stream, speeds = batch_stream(trainer), []

    def one_more() -> dict[str, float]:
        speeds.append(train_epoch(trainer, len(speeds), stream, tqdm(disable=True)))
        _finish(trainer.accelerator.device)
        return speeds[-1]

    return one_more


def _train_rows(trainer: Trainer, flops: float) -> Iterator[Row]:
    device, n_images = trainer.accelerator.device, len(trainer.dataset)
    batches = _batches_on(device, trainer)
    run_epoch, speeds = epochs(trainer), []

    def ours() -> None:
        speeds.append(run_epoch())

    def steps() -> None:
        trainer.model.train()
        for update, (images, labels) in enumerate(batches):
            train_step(trainer, batch_of(images, labels, update))
        _finish(device)

    ours()  # processes start, kernels are chosen and memory is taken the first time
    steps()
    seconds, alone = race(ours, steps, repeats=ROUNDS, clock=time.perf_counter)
    shares = _shares(trainer, batches)
    passes = n_images / alone / (shares["forward"] + shares["backward"])
    waiting = min(speed["data_wait_share"] for speed in speeds[1:])
    spent = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
    label, rate = label_of(trainer.job.recipe), n_images / seconds
    yield Row(
        f"train: {label}",
        rate,
        "images/s",
        Mark("the same steps on tensors on the device", n_images / alone),
        TARGET[device.type],
        Mark("forward and backward alone", passes),
        note=f"{_conditions(trainer)}; waiting for data {waiting:.1%}; of a step: {spent}",
    )
    if device.type == "cuda":  # one noisy product on a processor is no limit
        yield flops_row(trainer, rate, flops)


def flops_row(trainer: Trainer, rate: float, flops: float) -> Row:
    """The arithmetic of training at `rate` images per second of `flops` operations, and the device's."""
    side = MATMUL_SIDE[trainer.accelerator.device.type]
    return Row(
        f"train FLOPs: {label_of(trainer.job.recipe)}",
        rate * flops / 1e12,
        "TFLOP/s",
        limit=Mark(f"product of matrices of {side:,}", largest_rate(trainer) / 1e12),
        note=f"{flops / 1e9:.3g} GFLOP of convolutions and products per image, forward and backward",
    )


def batch_of(images: Tensor, labels: Tensor, update: int) -> Batch:
    """A whole batch that lies on the device."""
    draws = np.arange(len(labels))
    return Batch(0, update, draws, [draws], iter([({"images": images}, labels)]))


@dataclass
class Parts:
    """Seconds of the parts of a step, without a wait on a GPU until they are asked for."""

    device: torch.device
    marks: list[tuple[str, float | torch.cuda.Event]] = field(default_factory=list)

    def mark(self, part: str) -> None:
        """`part` ends here; the first one named is where time begins."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def shares(self, start: str) -> dict[str, float]:
        """Of all the time between marks, leaving out what ends with a mark `start`."""
        _finish(self.device)
        seconds: dict[str, float] = {}
        for (_, before), (part, after) in zip(self.marks, self.marks[1:], strict=False):
            if part != start:
                spent = after - before if isinstance(after, float) else before.elapsed_time(after)
                seconds[part] = seconds.get(part, 0.0) + spent
        return {part: spent / sum(seconds.values()) for part, spent in seconds.items()}


def _shares(trainer: Trainer, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    parts, backward = Parts(trainer.accelerator.device), trainer.accelerator.backward

    def marked_backward(loss: Tensor) -> None:
        parts.mark("forward")
        backward(loss)
        parts.mark("backward")

    trainer.model.train()
    hook = trainer.optimizer.register_step_post_hook(lambda *_: parts.mark("clip and optimiser"))
    with patch.object(trainer.accelerator, "backward", marked_backward):
        for update, (images, labels) in enumerate(batches[:20]):
            parts.mark("start")
            train_step(trainer, batch_of(images, labels, update))
            parts.mark("average")
    hook.remove()
    return parts.shares("start")


def _batches_on(device: torch.device, trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
    """As many batches as an epoch has, of the size it has them, as they are in the cache."""
    n_images = len(trainer.dataset)
    pieces = np.array_split(np.arange(n_images), -(-n_images // trainer.job.recipe.optim.batch_size))
    images, labels = _images(trainer, n_images), trainer.dataset.targets
    return [(images[rows].to(device), labels[rows].to(device)) for rows in pieces]


def _images(trainer: Trainer, n_images: int) -> Tensor:
    return torch.from_numpy(np.array(trainer.job.data.cache.images[:n_images]))[:, None]


def _both_ways(model: XRayModel, images: Tensor) -> Tensor:
    return (model.predict({"images": images}) + model.predict({"images": images.flip(-1)})) / 2


def flops_of_image(trainer: Trainer) -> float:
    """Of one forward and backward pass of one image, as torch counts them."""
    images, labels = _batches_on(trainer.accelerator.device, trainer)[0]
    with FlopCounterMode(display=False) as counter:
        trainer.loss.sums(trainer.model({"images": images}), labels).sum().backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(labels)


def largest_rate(trainer: Trainer) -> float:
    """Operations per second of one large matrix product in the precision that is trained in."""
    device = trainer.accelerator.device
    side = MATMUL_SIDE[device.type]
    kind = torch.bfloat16 if trainer.accelerator.mixed_precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        _finish(device)

    return 2 * side**3 / race(product, repeats=10, clock=time.perf_counter)[0]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def label_of(recipe: Recipe) -> str:
    """The network and its pixels."""
    compiled = " compiled" if recipe.compile else ""
    return f"{recipe.model.backbone.split('.')[0]}, {recipe.data.size} px{compiled}"


def _conditions(trainer: Trainer) -> str:
    cfg, accelerator = trainer.job.recipe, trainer.accelerator
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "float32"
    how = "compiled" if trainer.compiled else "not compiled"
    n_workers = worker_count(cfg.data.n_workers, accelerator)
    return f"batches of {cfg.optim.batch_size}, {precision}, {how}, {n_workers} loader processes"


def _difference(found: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """What is wrong with logits, empty where nothing is."""
    worst = float(np.abs(found - expected).max())
    return "" if worst <= tolerance else f"logits differ by {worst:.2g} from those of the passes alone"
