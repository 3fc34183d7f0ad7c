"""What a variant costs beside the reference: time of a training step, of training, and passes per image."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from cxrlt.artifacts import read_json
from cxrlt.ensembles.weights import read_weights
from cxrlt.experiments.experiment import Experiment, Row, Run
from cxrlt.inputs.dataset import on_device
from cxrlt.predictions.predict import tta_of
from cxrlt.system.atomic_files import write_json
from cxrlt.training.batches import Batch
from cxrlt.training.job import FoldJob
from cxrlt.training.loop import train_step
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.timing import PROCESSOR, SECONDS, WALL
from cxrlt.training.train import fold_jobs
from cxrlt.training.tta import variants

WARM_UP, FEWEST, MOST, LONGEST = 2, 7, 25, 30.0  # rounds, and the seconds after which there have been enough


def step_times(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Row]:
    """By variant; kept in step_times.json of the experiment's runs, and measured again for other variants.

    step_time: median over the rounds of a step's time as a multiple of the first variant's in the same round;
    step_time_noise: half the interquartile range of those multiples.
    """
    path = experiment.runs_dir / "step_times.json"
    names = [run.variant.name for run in runs]
    if path.is_file() and not experiment.plan.force:
        kept = read_json(path, made_by=experiment.command)
        if list(kept) == names:
            return kept
    print(f"step times: one training step of each {experiment.heading} in turn", flush=True)
    measured = dict(zip(names, measure_steps(experiment, runs), strict=True))
    write_json(path, measured)
    return measured


def measure_steps(experiment: Experiment, runs: Sequence[Run]) -> list[Row]:
    """Whole training steps on the first batch of the first fold, interleaved, for some rounds.

    Interleaved, so that machine noise affects all variants equally.
    """
    accelerator = create_accelerator(experiment.base)
    (first,) = fold_jobs(experiment.source, runs[0].plan(experiment.folds[0]))
    steps = [_step_of(run, first, accelerator) for run in runs]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other, and for other work of this machine
    seconds = np.array(_rounds(steps)[WARM_UP:])
    torch.set_num_threads(n_threads)
    accelerator.free_memory()
    ratios = seconds / seconds[:, :1]
    quartiles = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    return [
        {"step_time": mid, "step_time_noise": (high - low) / 2} for low, mid, high in quartiles.T.tolist()
    ]


def _rounds(steps: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds of every step, round by round; each round begins with another step."""
    rounds: list[list[float]] = []
    began = time.monotonic()
    while len(rounds) < WARM_UP + MOST:
        if len(rounds) >= WARM_UP + FEWEST and time.monotonic() - began > LONGEST:
            break
        order = np.roll(np.arange(len(steps)), -len(rounds))
        seconds = {place: steps[place]() for place in order}
        rounds.append([seconds[place] for place in range(len(steps))])
    return rounds


def _step_of(run: Run, first: FoldJob, accelerator: Accelerator) -> Callable[[], float]:
    """One training step of `run` on the rows of `first`, which returns its seconds.

    It is clipped as the first run is, so that all are or none.
    """
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


def costs(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Row]:
    """By variant, as multiples of the reference's. `runs` are those that are compared.

    training_time: with all that a variant needs first, NaN where it was not measured; passes: per image.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.variant.name, []).append(run)
    reference = by_name[experiment.reference.name]
    shares = {
        name: _share(experiment, own, reference)
        for name, own in by_name.items()
        if own[0].variant.kind in ("trained", "second stage")
    }
    names = {run.name: run.variant.name for run in runs}
    found = {name: _cost(experiment, own, shares, names) for name, own in by_name.items()}
    return {name: {"training_time": time, "passes": passes} for name, (time, passes) in found.items()}


def clock_of(experiment: Experiment, runs: Sequence[Run]) -> str:
    """What the reference's training was measured with; mixed ones are as good as the worse."""
    own = [run for run in runs if experiment.is_reference(run)]
    measured = [_measured(experiment, run, fold) for run in own for fold in experiment.folds]
    return PROCESSOR if {clock for found in measured for _, clock in found} == {PROCESSOR} else WALL


def _cost(
    experiment: Experiment, runs: Sequence[Run], shares: Mapping[str, float], names: Mapping[str, str]
) -> tuple[float, float]:
    """Training and passes; `shares` are multiples of training alone, by variant, `names` runs' variants."""
    variant = runs[0].variant
    if variant.kind == "ensemble":
        weights = [read_weights(experiment.run_dir(run), experiment.challenge) for run in runs]
        used = [{names[member] for member in each.used} for each in weights]
        needed = [sum(shares[name] for name in own | {experiment.reference.name}) for own in used]
        return float(np.mean(needed)), float(np.mean([len(own) for own in used]))
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    tta = tta_of(runs[0].recipe, experiment.challenge.classes)
    before = 0.0 if variant.kind == "trained" else 1.0
    return before + shares.get(variant.name, 0.0), float(sum(1 for _ in variants(image, tta)))


def _share(experiment: Experiment, runs: Sequence[Run], reference: Sequence[Run]) -> float:
    """Median over folds and seeds of the seconds as a multiple of the reference's with the same two."""
    ratios = [
        seconds / of_reference
        for run, of_seed in zip(runs, reference, strict=True)
        for fold in experiment.folds
        for seconds, clock in _measured(experiment, run, fold)
        for of_reference, its_clock in _measured(experiment, of_seed, fold)
        if clock == its_clock
    ]
    return float(np.median(ratios)) if ratios else math.nan


def _measured(experiment: Experiment, run: Run, fold: int) -> list[tuple[float, str]]:
    """Seconds and clock of one training; none if it was interrupted."""
    path = experiment.fold_dir(run, fold) / SECONDS
    if not path.is_file():
        return []
    values = read_json(path, "--force")
    return [(values["seconds"], values.get("clock", WALL))]
