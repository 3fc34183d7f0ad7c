"""Cost of every variant relative to the reference: step time, training time, forward passes per image."""

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
from cxrlt.inputs.dataset import move_to_device
from cxrlt.predictions.predict import effective_tta
from cxrlt.system.atomic_files import write_json
from cxrlt.training.batches import Batch
from cxrlt.training.job import FoldJob
from cxrlt.training.loop import train_step
from cxrlt.training.plan import create_fold_jobs
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.timing import CPU_CLOCK, TIMING_FILE, WALL_CLOCK
from cxrlt.training.tta import n_variants

N_WARMUP_ROUNDS, MIN_ROUNDS, MAX_ROUNDS = 2, 7, 25
MAX_SECONDS = 30.0
"""After this time MIN_ROUNDS are enough. These four values are our choice."""


def load_or_measure_step_times(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Row]:
    """Return the step time of every variant, from step_times.json if it has the same variants.

    step_time: median over rounds of the step's time relative to the first variant's in the same round.
    step_time_noise: half the interquartile range of these ratios.
    """
    path = experiment.runs_dir / "step_times.json"
    names = [run.variant.name for run in runs]
    if path.is_file() and not experiment.plan.force:
        saved = read_json(path, made_by=experiment.command)
        if list(saved) == names:
            return saved
    print(f"step times: one training step of each {experiment.heading} in turn", flush=True)
    measured = dict(zip(names, measure_step_times(experiment, runs), strict=True))
    write_json(path, measured)
    return measured


def measure_step_times(experiment: Experiment, runs: Sequence[Run]) -> list[Row]:
    """Measure whole training steps on the first batch of the first fold. Return one row per run.

    The steps are interleaved, so that machine noise affects all variants equally.
    """
    accelerator = create_accelerator(experiment.base)
    (first,) = create_fold_jobs(experiment.source, runs[0].plan(experiment.folds[0]))
    steps = [_make_timed_step(run, first, accelerator) for run in runs]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads wait for each other and for other processes
    seconds = np.array(_time_rounds(steps)[N_WARMUP_ROUNDS:])
    torch.set_num_threads(n_threads)
    accelerator.free_memory()
    ratios = seconds / seconds[:, :1]
    quartiles = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    return [
        {"step_time": mid, "step_time_noise": (high - low) / 2} for low, mid, high in quartiles.T.tolist()
    ]


def _time_rounds(steps: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Return the seconds of every step in every round. Each round starts with a different step."""
    rounds: list[list[float]] = []
    started = time.monotonic()
    while len(rounds) < N_WARMUP_ROUNDS + MAX_ROUNDS:
        if len(rounds) >= N_WARMUP_ROUNDS + MIN_ROUNDS and time.monotonic() - started > MAX_SECONDS:
            break
        order = np.roll(np.arange(len(steps)), -len(rounds)).tolist()
        seconds = {position: steps[position]() for position in order}
        rounds.append([seconds[position] for position in range(len(steps))])
    return rounds


def _make_timed_step(run: Run, first: FoldJob, accelerator: Accelerator) -> Callable[[], float]:
    """Return a function that runs one training step of `run` on the rows of `first` and returns the seconds.

    All runs use the gradient clipping of the first run, so that clipping does not change the ratio.
    """
    optim = run.recipe.optim.model_copy(update={"clip_grad": first.recipe.optim.clip_grad})
    recipe = run.recipe.model_copy(update={"optim": optim})
    no_checkpoints = first.run_dir / "step_time"
    fold_run = replace(first.run, name=run.name, recipe=recipe, dir=no_checkpoints)
    trainer = create_trainer(replace(first, run=fold_run), accelerator)
    trainer.model.train()
    draws = np.arange(min(optim.batch_size, trainer.micro_batch_size, len(trainer.dataset)))
    inputs, labels, _ = default_collate([trainer.dataset[0, draw] for draw in draws.tolist()])
    inputs, labels = move_to_device(inputs, accelerator.device), labels.to(accelerator.device)

    def step() -> float:
        _synchronize(accelerator)
        started = time.perf_counter()
        train_step(trainer, Batch(0, 0, draws, [draws], iter([(inputs, labels)])))
        _synchronize(accelerator)
        return time.perf_counter() - started

    return step


def _synchronize(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def relative_costs(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Row]:
    """Return the cost of every variant as multiples of the reference, by the variant's name.

    training_time: including the trainings that the variant needs first; NaN if not measured.
    passes: forward passes per image.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.variant.name, []).append(run)
    reference = by_name[experiment.reference.name]
    relative_times = {
        name: _relative_training_time(experiment, variant_runs, reference)
        for name, variant_runs in by_name.items()
        if variant_runs[0].variant.kind in ("trained", "second stage")
    }
    names = {run.name: run.variant.name for run in runs}
    costs = {
        name: _variant_cost(experiment, variant_runs, relative_times, names)
        for name, variant_runs in by_name.items()
    }
    return {name: {"training_time": time, "passes": passes} for name, (time, passes) in costs.items()}


def training_clock(experiment: Experiment, runs: Sequence[Run]) -> str:
    """Return the clock of the reference's training times; WALL_CLOCK if they have different clocks."""
    reference_runs = [run for run in runs if experiment.is_reference(run)]
    measured = [_recorded_times(experiment, run, fold) for run in reference_runs for fold in experiment.folds]
    return CPU_CLOCK if {clock for times in measured for _, clock in times} == {CPU_CLOCK} else WALL_CLOCK


def _variant_cost(
    experiment: Experiment, runs: Sequence[Run], relative_times: Mapping[str, float], names: Mapping[str, str]
) -> tuple[float, float]:
    """Return training time and passes of one variant.

    `shares`: relative training time of each variant, without earlier stages. `names`: variant of each run.
    """
    variant = runs[0].variant
    if variant.kind == "ensemble":
        weights = [read_weights(experiment.run_dir(run), experiment.challenge) for run in runs]
        used = [{names[member] for member in member_weights.active_members} for member_weights in weights]
        training_times = [
            sum(relative_times[name] for name in members | {experiment.reference.name}) for members in used
        ]
        return float(np.mean(training_times)), float(np.mean([len(members) for members in used]))
    tta = effective_tta(runs[0].recipe, experiment.challenge.classes)
    earlier_stages = 0.0 if variant.kind == "trained" else 1.0
    return earlier_stages + relative_times.get(variant.name, 0.0), float(n_variants(tta))


def _relative_training_time(experiment: Experiment, runs: Sequence[Run], reference: Sequence[Run]) -> float:
    """Return the median ratio of training times to the reference with the same fold and seed."""
    ratios = [
        seconds / reference_seconds
        for run, reference_run in zip(runs, reference, strict=True)
        for fold in experiment.folds
        for seconds, clock in _recorded_times(experiment, run, fold)
        for reference_seconds, reference_clock in _recorded_times(experiment, reference_run, fold)
        if clock == reference_clock
    ]
    return float(np.median(ratios)) if ratios else math.nan


def _recorded_times(experiment: Experiment, run: Run, fold: int) -> list[tuple[float, str]]:
    """Return seconds and clock of one training, in a list that is empty if the training was interrupted."""
    path = experiment.fold_dir(run, fold) / TIMING_FILE
    if not path.is_file():
        return []
    values = read_json(path, "--force")
    return [(values["seconds"], values.get("clock", WALL_CLOCK))]
