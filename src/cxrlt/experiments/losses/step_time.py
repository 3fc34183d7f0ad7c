"""How long a training step takes with each loss, measured side by side."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from cxrlt.artifacts import read_json
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.plan import Run
from cxrlt.inputs.dataset import XRayDataset
from cxrlt.system.atomic_files import write_json
from cxrlt.training.job import FoldJob
from cxrlt.training.optimise import create_optimizer
from cxrlt.training.setup import create_accelerator, initial_model, loss_of
from cxrlt.training.train import fold_jobs

WARM_UP, FEWEST, MOST, SECONDS = 2, 7, 25, 30.0  # rounds, and when there have been enough


@dataclass(frozen=True)
class StepTime:
    """Median over the rounds of a step's time as a multiple of the first loss's in the same round.

    `noise` is half the interquartile range of those multiples.
    """

    ratio: float
    noise: float


def step_times(experiment: LossExperiment, runs: Sequence[Run]) -> dict[str, StepTime]:
    """By variant; kept in step_times.json of the experiment's runs, and measured again for other variants."""
    path = experiment.runs_dir / "step_times.json"
    names = [run.variant for run in runs]
    if path.is_file() and not experiment.plan.force:
        kept = read_json(path, made_by=f"cxrlt compare losses {experiment.challenge.name}")
        if list(kept) == names:
            return {name: StepTime(**values) for name, values in kept.items()}
    print("step times: one training step of each loss in turn", flush=True)
    measured = dict(zip(names, measure(experiment, runs), strict=True))
    write_json(path, {name: vars(value) for name, value in measured.items()})
    return measured


def measure(experiment: LossExperiment, runs: Sequence[Run]) -> list[StepTime]:
    """Whole training steps on the first batch of the first fold, one loss after the other, for some rounds.

    Losses take turns within a round, so that a slow moment of the machine strikes all of them.
    """
    accelerator = create_accelerator(experiment.base)
    (first,) = fold_jobs(
        experiment.source, runs[0].plan(experiment.folds[0], force=False)
    )  # clips for all or none
    optim = first.recipe.optim
    rows = first.train.index[: min(optim.batch_size, optim.max_batch_per_device)]
    labels = torch.tensor(first.targets(first.train.loc[rows])).to(accelerator.device)
    images = _images(first, rows.tolist()).to(accelerator.device)
    steps = [_step_of(run, first, accelerator, images, labels) for run in runs]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other, and for whatever else runs here
    seconds = np.array(_rounds(steps)[WARM_UP:])
    torch.set_num_threads(n_threads)
    ratios = seconds / seconds[:, :1]
    quartiles = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    return [StepTime(float(middle), float((high - low) / 2)) for low, middle, high in quartiles.T]


def _rounds(steps: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds of every step, round by round; each round begins with another step."""
    rounds: list[list[float]] = []
    began = time.monotonic()
    while len(rounds) < WARM_UP + MOST:
        if len(rounds) >= WARM_UP + FEWEST and time.monotonic() - began > SECONDS:
            break
        order = np.roll(np.arange(len(steps)), -len(rounds))
        seconds = {place: steps[place]() for place in order}
        rounds.append([seconds[place] for place in range(len(steps))])
    return rounds


def _images(job: FoldJob, ids: list[str]) -> torch.Tensor:
    """Cached images as the network meets them, without augmentation."""
    empty = np.full((len(ids), len(job.classes)), math.nan, np.float32)
    dataset = XRayDataset(job.cache, ids, empty, size=job.recipe.data.size)
    return torch.stack([dataset[0, row][0]["images"] for row in range(len(ids))])


def _step_of(
    run: Run, first: FoldJob, accelerator: Accelerator, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], float]:
    """One training step of `run`, which returns its seconds."""
    job = FoldJob(**{**vars(first), "name": run.name, "recipe": run.recipe})
    loss = loss_of(job)
    model = initial_model(job, loss).to(accelerator.device).train()
    loss = loss.to(accelerator.device)
    optimizer, clip_grad = create_optimizer(model, run.recipe.optim), first.recipe.optim.clip_grad

    def step() -> float:
        _wait(accelerator)
        began = time.perf_counter()
        with accelerator.autocast():
            logits = model({"images": images})
        loss(logits, labels).backward()
        if clip_grad is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(accelerator)
        return time.perf_counter() - began

    return step


def _wait(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
