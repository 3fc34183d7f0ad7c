"""What a trick costs beside BASE: seconds of training, and passes of an image through a network."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrlt.artifacts import read_json
from cxrlt.ensembles.weights import read_weights
from cxrlt.experiments.plan import Run
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.registry import BASE, TRICKS
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import tta_of
from cxrlt.system.atomic_files import write_json
from cxrlt.training.train import TrainPlan, train
from cxrlt.training.tta import variants

SECONDS = "seconds.json"
WALL, PROCESSOR = "wall", "processor"


@dataclass(frozen=True)
class Cost:
    """As multiples of BASE's: training with everything it needs (NaN: not measured), and passes per image."""

    training: float
    passes: float


def train_timed(source: ImageSource, plan: TrainPlan, directory: Path) -> None:
    """Train one fold into `directory`; seconds.json says how long it took, unless it was interrupted.

    Without a GPU that is the processor's time, for other trainings slow the clock on the wall.
    """
    begun = (directory / "run.json").is_file() and not plan.force
    clock = WALL if torch.accelerator.is_available() else PROCESSOR
    now = time.monotonic if clock == WALL else time.process_time
    began = now()
    train(source, plan)
    if not begun:
        write_json(directory / SECONDS, {"seconds": now() - began, "clock": clock})


def costs(experiment: TrickExperiment, runs: Sequence[Run]) -> dict[str, Cost]:
    """By row, BASE included. `runs` are those that are compared."""
    by_row: dict[str, list[Run]] = {}
    for run in runs:
        by_row.setdefault(run.variant, []).append(run)
    base = by_row[BASE]
    shares = {row: _share(experiment, own, base) for row, own in by_row.items() if _is_trained(row)}
    return {row: _cost(experiment, row, own, shares) for row, own in by_row.items()}


def clock_of(experiment: TrickExperiment) -> str:
    """What BASE's training was measured with; mixed ones are as good as the worse."""
    clocks = {
        clock
        for run in experiment.base_runs
        for fold in experiment.folds
        for _, clock in _measured(experiment, run, fold)
    }
    return PROCESSOR if clocks == {PROCESSOR} else WALL


def _cost(experiment: TrickExperiment, row: str, runs: Sequence[Run], shares: Mapping[str, float]) -> Cost:
    stage = "trained" if row == BASE else TRICKS[row].stage
    if stage != "ensemble":
        of_base = 0.0 if stage == "trained" else 1.0
        return Cost(of_base + shares.get(row, 0.0), _passes(experiment, runs[0]))
    names = {experiment.name_of(member, run.seed): member for run in runs for member in shares}
    used = [{names[member] for member in _used(experiment, run)} for run in runs]
    return Cost(
        float(np.mean([sum(shares[member] for member in own | {BASE}) for own in used])),
        float(np.mean([len(own) for own in used])),
    )


def _is_trained(row: str) -> bool:
    return row == BASE or TRICKS[row].stage in ("trained", "second stage")


def _used(experiment: TrickExperiment, run: Run) -> list[str]:
    directory = experiment.source.workspace.run_dir(experiment.challenge.name, run.name)
    return list(read_weights(directory, experiment.challenge).used)


def _share(experiment: TrickExperiment, runs: Sequence[Run], base: Sequence[Run]) -> float:
    """Median over folds and seeds of the seconds as a multiple of BASE's with the same fold and seed."""
    ratios = [
        seconds / of_base
        for run, of_seed in zip(runs, base, strict=True)
        for fold in experiment.folds
        for seconds, clock in _measured(experiment, run, fold)
        for of_base, base_clock in _measured(experiment, of_seed, fold)
        if clock == base_clock
    ]
    return float(np.median(ratios)) if ratios else math.nan


def _measured(experiment: TrickExperiment, run: Run, fold: int) -> list[tuple[float, str]]:
    """Seconds and clock of one training; none if it was interrupted."""
    path = experiment.fold_dir(run, fold) / SECONDS
    if not path.is_file():
        return []
    values = read_json(path, "--force")
    return [(values["seconds"], values.get("clock", WALL))]


def _passes(experiment: TrickExperiment, run: Run) -> float:
    """BASE predicts every image as it is, once."""
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    return float(sum(1 for _ in variants(image, tta_of(run.recipe, experiment.challenge.classes))))
