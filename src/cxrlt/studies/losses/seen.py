"""Predictions for the rows that a fold left out, and for rows that its model was trained on."""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.folds.make import Folds, read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.locks import exclusive
from cxrlt.predictions.identity import identity_of
from cxrlt.predictions.predict import TrainedFold, infer_fold, predict, trained_folds, tta_of, why_anew
from cxrlt.predictions.store import write_predictions
from cxrlt.studies.losses.plan import LossStudy
from cxrlt.studies.plan import Run
from cxrlt.studies.workers import Task, Workers
from cxrlt.training.setup import create_accelerator

SEEN = "seen.parquet"
"""Predictions of a fold's model for the rows of the next fold, which it was trained on."""


def predict_runs(study: LossStudy, workers: Workers, runs: Sequence[Run]) -> dict[str, str]:
    """Out-of-fold and seen rows of every run. Returns what failed: run -> reason."""
    tasks = [
        Task(
            run.name,
            partial(_predict, study.source, run.name, study.plan.force),
            study.log_of(f"predict-{run.name}"),
        )
        for run in runs
        if study.plan.force or not all(_is_predicted(study, run, fold) for fold in study.folds)
    ]
    return workers.run(tasks, "predict")


def seen_fold(fold: int, n_folds: int) -> int:
    """The rows that say how well a fold's model does on what it was trained on: those of the next fold.

    They are as many as the left-out ones, with the same share of every label, and over all folds the same.
    """
    return (fold + 1) % n_folds


def _is_predicted(study: LossStudy, run: Run, fold: int) -> bool:
    seen = seen_fold(fold, study.split.n_folds)
    return study.is_predicted(run, fold) and study.is_predicted(run, fold, SEEN, seen)


def _predict(source: ImageSource, name: str, force: bool) -> None:
    predict(source, name, "oof", force=force)
    challenge, folds = source.challenge, read_folds(source.challenge, source.workspace)
    units = trained_folds(source.workspace.run_dir(challenge.name, name), folds, challenge.name)
    units = [unit for unit in units if force or _is_behind(unit, challenge, folds)]
    if units:
        _predict_seen(source, units, folds)


def _is_behind(unit: TrainedFold, challenge: Challenge, folds: Folds) -> bool:
    made_of = identity_of(unit.directory, challenge, folds)
    return why_anew(unit.directory / SEEN, challenge, made_of, _seen_rows(unit, folds)) is not None


def _seen_rows(unit: TrainedFold, folds: Folds) -> pd.Index:
    return folds.frame.index[folds.frame["fold"] == seen_fold(int(unit.fold), folds.n_folds)]


def _predict_seen(source: ImageSource, units: Sequence[TrainedFold], folds: Folds) -> None:
    recipe, challenge = units[0].recipe, source.challenge  # the folds of a run have one recipe
    table, cache = source.folded(folds.frame.index, recipe.data.cache_size)
    accelerator = create_accelerator(recipe)
    tta = tta_of(recipe, challenge.classes)
    for unit in units:
        rows = _seen_rows(unit, folds)
        there = table[table.index.isin(rows)]
        logits = infer_fold(unit, cache, there, challenge, accelerator, tta, "seen rows")
        meta = {"fold": unit.fold, "split": "seen"} | identity_of(unit.directory, challenge, folds)
        with exclusive(unit.directory, wait=True):
            write_predictions(unit.directory / SEEN, logits.reindex(rows), meta)
