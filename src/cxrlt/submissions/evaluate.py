"""The stage `cxrlt evaluate`: score a model or an ensemble, or compare all of them on a leaderboard."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import FinalLogits, get_current_data, load_final_logits
from cxrlt.ensembles.provenance import collect_notes
from cxrlt.errors import UserError
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import Interval, macro, paired_difference
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import is_run_dir
from cxrlt.predictions.scoring import N_DRAWS, Evaluation, EvaluationExtras, macro_values, score_rows
from cxrlt.predictions.standardise import pool_oof_scores, predicted_ids, to_probabilities
from cxrlt.system.atomic_files import write_json
from cxrlt.system.locks import lock_folder

SCORE = "score.json"
OPTIMISTIC = "optimistic: its epochs were chosen on the rows it is scored on"


def evaluate(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str = "oof",
    n_draws: int = N_DRAWS,
    seed: int = 0,
    *,
    partial: bool = False,
) -> Evaluation:
    """Score a model or an ensemble on its out-of-fold rows, or on dev or test if they have labels.

    With `partial` a model is scored on its finished folds only. Updates score.json, which has one entry per
    split, in the folder of the submission. Raises UserError for incomplete predictions and for a split
    without labels.
    """
    current = get_current_data(challenge, workspace, name, partial=partial)
    _require_labels(split, current)
    evaluation = _score(load_final_logits(name, split, current), split, current, n_draws, seed)
    folder = workspace.submission_dir(challenge.name, name)
    with lock_folder(folder, wait=True):
        try:
            scores = read_json(folder / SCORE, "cxrlt evaluate")
        except UserError:  # missing or damaged
            scores = {}
        write_json(folder / SCORE, scores | {split: evaluation.to_json()})
    return evaluation


@dataclass(frozen=True)
class Leaderboard:
    """All models and ensembles, best first by the challenge's metric.

    `differences` are the metric of the best minus that of each other one, paired on the same bootstrap
    samples. `skipped` has the reason why a run cannot be scored, by its name.
    """

    split: str
    evaluations: tuple[Evaluation, ...]
    differences: tuple[Interval, ...]
    skipped: Mapping[str, str]


def leaderboard(
    challenge: Challenge,
    workspace: Workspace,
    split: str = "oof",
    n_draws: int = N_DRAWS,
    seed: int = 0,
    *,
    names: Collection[str] = (),
) -> Leaderboard:
    """Score every model and ensemble, or `names`, on the rows of `split` that all of them predict.

    Runs of experiments need to be named. Raises UserError if no run is complete, or if the split has no
    labels.
    """
    current = CurrentData(challenge, workspace)
    _require_labels(split, current)
    runs: list[FinalLogits] = []
    skipped: dict[str, str] = {}
    folders = sorted(filter(is_run_dir, workspace.folds_dir(challenge.name).glob("*")))
    for name in names or [folder.name for folder in folders]:
        try:
            runs.append(load_final_logits(name, split, current))
        except UserError as error:
            skipped[name] = str(error)
    if not runs:
        train = f"Train a model with: cxrlt train RECIPE --challenge {challenge.name}"
        raise UserError(
            f"Nothing can be scored on {challenge.name} {split} yet. " + (" ".join(skipped.values()) or train)
        )
    shared = current.table(split).index
    for run in runs:
        shared = shared.intersection(predicted_ids(run.logits), sort=False)
    evaluations = [_score(run.select(shared), split, current, n_draws, seed) for run in runs]
    evaluations.sort(key=lambda evaluation: -evaluation.overall.metrics[challenge.metric].value)
    draws = [evaluation.draws[challenge.metric] for evaluation in evaluations]
    differences = tuple(paired_difference(draws[0], each) for each in draws)
    return Leaderboard(split, tuple(evaluations), differences, skipped)


def _require_labels(split: str, current: CurrentData) -> None:
    challenge = current.challenge
    if split != "oof" and current.table(split)[list(challenge.classes)].isna().all(axis=None):
        raise UserError(
            f"{challenge.name} {split} has no labels. When you have them, run: cxrlt score FILE --truth CSV "
            f"--challenge {challenge.name}"
        )


def _score(run: FinalLogits, split: str, current: CurrentData, n_draws: int, seed: int) -> Evaluation:
    challenge, table = current.challenge, current.table(split)
    scores, extras = run.logits.loc[predicted_ids(run.logits)], EvaluationExtras()
    if split == "oof":
        scores = pool_oof_scores(run.logits, current.rows.fold, challenge.task)
        extras = _oof_extras(challenge, current.rows, run, scores)
    elif challenge.task == "single_label":
        scores = to_probabilities(scores, challenge.task)
    notes = [OPTIMISTIC] if run.optimistic else []
    if n_missing := len(table) - len(scores):
        notes.append(f"{n_missing:,} of {len(table):,} rows have no prediction and do not count")
    extras["study_mean"] = run.study_mean.text
    notes += challenge.score_notes(
        table, lambda: to_probabilities(run.logits.loc[scores.index], challenge.task)
    )
    extras["notes"] = (*notes, *collect_notes(run.name, split, current))
    return score_rows(
        challenge,
        scores,
        table,
        table["patient"],
        name=run.name,
        split=split,
        n_draws=n_draws,
        seed=seed,
        **extras,
    )


def _oof_extras(
    challenge: Challenge, rows: TrainRows, run: FinalLogits, scores: pd.DataFrame
) -> EvaluationExtras:
    """Compute the other out-of-fold scores: of each fold, their mean, and of the pooled raw logits."""

    def macro_of(frame: pd.DataFrame) -> dict[str, float]:
        labels = rows.table.loc[frame.index, list(challenge.classes)]
        return macro_values(challenge.task, labels.to_numpy(np.float64), frame.to_numpy(np.float64))

    per_fold = tuple(macro_of(part) for _, part in scores.groupby(rows.fold.loc[scores.index]))
    raw = None if run.raw is None else macro_of(run.raw.loc[scores.index])[challenge.metric]
    return {
        "per_fold": per_fold,
        "mean_over_folds": float(macro([fold[challenge.metric] for fold in per_fold])),
        "raw_pooled": raw,
    }
