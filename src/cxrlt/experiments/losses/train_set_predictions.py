"""Predictions for the rows that a fold left out, and for rows that its model was trained on."""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.plan import Run
from cxrlt.experiments.workers import Task, Workers
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import infer_fold, predict, tta_of, what_is_behind
from cxrlt.predictions.present import Present
from cxrlt.predictions.store import PredictionsMeta, write_predictions
from cxrlt.predictions.trained import TrainedFold, trained_folds
from cxrlt.system.locks import exclusive
from cxrlt.training.setup import create_accelerator

SEEN = "seen.parquet"
"""Predictions of a fold's model for the rows of the next fold, which it was trained on."""


def predict_runs(experiment: LossExperiment, workers: Workers, runs: Sequence[Run]) -> dict[str, str]:
    """Out-of-fold and seen rows of every run. Returns what failed: run -> reason."""
    tasks = [
        Task(
            run.name,
            partial(_predict, experiment.source, run.name, experiment.plan.force),
            experiment.log_of(f"predict-{run.name}"),
        )
        for run in runs
        if experiment.plan.force or not all(_is_predicted(experiment, run, fold) for fold in experiment.folds)
    ]
    return workers.run(tasks, "predict")


def seen_fold(fold: int, n_folds: int) -> int:
    """The rows that say how well a fold's model does on what it was trained on: those of the next fold.

    They are as many as the left-out ones, with the same share of every label, and over all folds the same.
    """
    return (fold + 1) % n_folds


def _is_predicted(experiment: LossExperiment, run: Run, fold: int) -> bool:
    seen = seen_fold(fold, experiment.split.n_folds)
    return experiment.is_predicted(run, fold) and experiment.is_predicted(run, fold, SEEN, seen)


def _predict(source: ImageSource, name: str, force: bool) -> None:
    predict(source, name, "oof", force=force)
    present = Present(source.challenge, source.workspace)
    run_dir = source.workspace.run_dir(source.challenge.name, name)
    units = trained_folds(run_dir, present.folds, source.challenge.name)
    units = [unit for unit in units if force or _is_behind(unit, present)]
    if units:
        _predict_seen(source, units, present)


def _is_behind(unit: TrainedFold, present: Present) -> bool:
    path = unit.directory / SEEN
    return what_is_behind(path, path.stem, _seen_rows(unit, present), present).reason is not None


def _seen_rows(unit: TrainedFold, present: Present) -> pd.Index:
    fold = present.rows.fold
    return fold.index[fold == seen_fold(int(unit.fold), present.folds.n_folds)]


def _predict_seen(source: ImageSource, units: Sequence[TrainedFold], present: Present) -> None:
    recipe, challenge = units[0].recipe, source.challenge  # the folds of a run have one recipe
    table, cache = source.folded(present.rows.table, recipe.data.cache_size)
    accelerator = create_accelerator(recipe)
    tta = tta_of(recipe, challenge.classes)
    for unit in units:
        rows = _seen_rows(unit, present)
        there = table[table.index.isin(rows)]
        logits = infer_fold(unit, cache, there, challenge, accelerator, tta, "seen rows")
        meta = PredictionsMeta(
            challenge=challenge.name,
            name=unit.record.name,
            fold=unit.fold,
            split="seen",
            made_of=present.made_of_predictions(unit.directory, rows, "seen"),
        )
        with exclusive(unit.directory, wait=True):
            write_predictions(
                unit.directory / SEEN, logits.reindex(rows), meta, present.pixel_numbers("seen")
            )
