"""What a trick costs beside BASE: seconds of training, and passes of an image through a network."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrlt.artifacts import read_json, write_json
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import tta_of
from cxrlt.predictions.weights import read_weights
from cxrlt.studies.plan import Run
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.studies.tricks.registry import BASE, TRICKS
from cxrlt.training.train import TrainPlan, train
from cxrlt.training.tta import variants

SECONDS = "seconds.json"


@dataclass(frozen=True)
class Cost:
    """As multiples of BASE's: training with everything it needs (NaN: not measured), and passes per image."""

    training: float
    passes: float


def train_timed(source: ImageSource, plan: TrainPlan, directory: Path) -> None:
    """Train one fold into `directory`; seconds.json says how long it took, unless it was interrupted."""
    begun = (directory / "run.json").is_file() and not plan.force
    began = time.monotonic()
    train(source, plan)
    if not begun:
        write_json(directory / SECONDS, {"seconds": time.monotonic() - began})


def costs(study: TrickStudy, runs: Sequence[Run]) -> dict[str, Cost]:
    """By row, BASE included. `runs` are those that are compared."""
    by_row: dict[str, list[Run]] = {}
    for run in runs:
        by_row.setdefault(run.variant, []).append(run)
    trained = {row: _seconds(study, own) for row, own in by_row.items() if _is_trained(row)}
    shares = {row: seconds / trained[BASE] for row, seconds in trained.items()}
    return {row: _cost(study, row, own, shares) for row, own in by_row.items()}


def _cost(study: TrickStudy, row: str, runs: Sequence[Run], shares: Mapping[str, float]) -> Cost:
    if row == BASE or TRICKS[row].stage == "trained":
        return Cost(shares[row], _passes(study, runs[0]))
    if TRICKS[row].stage == "second stage":
        return Cost(1 + shares[row], _passes(study, runs[0]))
    if TRICKS[row].stage == "prediction":
        return Cost(1.0, _passes(study, runs[0]))
    names = {study.name_of(member, run.seed): member for run in runs for member in shares}
    used = [{names[member] for member in _used(study, run)} for run in runs]
    return Cost(
        float(np.mean([sum(shares[member] for member in own | {BASE}) for own in used])),
        float(np.mean([len(own) for own in used])),
    )


def _is_trained(row: str) -> bool:
    return row == BASE or TRICKS[row].stage in ("trained", "second stage")


def _used(study: TrickStudy, run: Run) -> list[str]:
    directory = study.source.workspace.run_dir(study.challenge.name, run.name)
    return list(read_weights(directory, study.challenge).used)


def _seconds(study: TrickStudy, runs: Sequence[Run]) -> float:
    """Median over folds and seeds of those that were measured."""
    paths = [study.fold_dir(run, fold) / SECONDS for run in runs for fold in study.folds]
    measured = [read_json(path, "--force")["seconds"] for path in paths if path.is_file()]
    return float(np.median(measured)) if measured else math.nan


def _passes(study: TrickStudy, run: Run) -> float:
    """BASE predicts every image as it is, once."""
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    return float(sum(1 for _ in variants(image, tta_of(run.recipe, study.challenge.classes))))
