"""How long a training step takes with each loss, measured side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from cxrlt.artifacts import read_json
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.plan import Run
from cxrlt.inputs.dataset import on_device
from cxrlt.system.atomic_files import write_json
from cxrlt.training.batches import Batch
from cxrlt.training.job import FoldJob
from cxrlt.training.loop import train_step
from cxrlt.training.setup import create_accelerator, create_trainer
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
    steps = [_step_of(run, first, accelerator) for run in runs]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other, and for whatever else runs here
    seconds = np.array(_rounds(steps)[WARM_UP:])
    torch.set_num_threads(n_threads)
    accelerator.free_memory()
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


def _step_of(run: Run, first: FoldJob, accelerator: Accelerator) -> Callable[[], float]:
    """One training step of `run` on the rows of `first`, which returns its seconds."""
    optim = run.recipe.optim.model_copy(update={"clip_grad": first.recipe.optim.clip_grad})
    recipe = run.recipe.model_copy(update={"optim": optim})
    no_checkpoints = first.run_dir / "step_time"
    fold_run = replace(first.run, name=run.name, recipe=recipe, dir=no_checkpoints)
    trainer = create_trainer(replace(first, run=fold_run), accelerator)
    trainer.model.train()
    draws = np.arange(min(optim.batch_size, trainer.rows_per_pass, len(trainer.dataset)))
    inputs, labels, _ = default_collate([trainer.dataset[0, draw] for draw in draws.tolist()])
    inputs, labels = on_device(inputs, accelerator.device), labels.to(accelerator.device)

    def step() -> float:
        _wait(accelerator)
        began = time.perf_counter()
        train_step(trainer, Batch(0, 0, draws, [draws], iter([(inputs, labels)])))
        _wait(accelerator)
        return time.perf_counter() - began

    return step


def _wait(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
