"""The stage `cxrlt evaluate`: score a model or an ensemble, or everything trained side by side."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.current import notes_of
from cxrlt.ensembles.final_logits import FinalLogits, load_final_logits, present_for
from cxrlt.errors import UserError
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import Interval, macro, paired_difference
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import holds_run
from cxrlt.predictions.scoring import N_DRAWS, Evaluation, macro_values, score_rows
from cxrlt.predictions.standardise import oof_scores, predicted_rows, probabilities
from cxrlt.system.atomic_files import write_json
from cxrlt.system.locks import exclusive

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
    """Score a model or an ensemble on its out-of-fold rows, or on dev or test where they have labels.

    With `partial` a model whose folds are not all finished is scored by those that are. Writes score.json
    into the submission's folder, which holds one entry per split. Raises UserError for incomplete predictions
    and for a split without labels.
    """
    present = present_for(challenge, workspace, name, partial=partial)
    _require_labels(split, present)
    evaluation = _score(load_final_logits(name, split, present), split, present, n_draws, seed)
    folder = workspace.submission_dir(challenge.name, name)
    with exclusive(folder, wait=True):
        try:
            scores = read_json(folder / SCORE, "cxrlt evaluate")
        except UserError:  # missing or damaged
            scores = {}
        write_json(folder / SCORE, scores | {split: evaluation.to_json()})
    return evaluation


@dataclass(frozen=True)
class Leaderboard:
    """Everything trained, best first by the challenge's metric.

    `differences` in that metric are best minus other, paired on the same patients drawn.
    `left_out` says of every other run why it cannot be scored.
    """

    split: str
    evaluations: tuple[Evaluation, ...]
    differences: tuple[Interval, ...]
    left_out: Mapping[str, str]


def leaderboard(
    challenge: Challenge, workspace: Workspace, split: str = "oof", n_draws: int = N_DRAWS, seed: int = 0
) -> Leaderboard:
    """Score every model and ensemble on the rows of `split` that all of them predict.

    Raises UserError if none is complete.
    """
    present = Present(challenge, workspace)
    _require_labels(split, present)
    runs, left_out = [], {}
    for run_dir in sorted(filter(holds_run, workspace.folds_dir(challenge.name).glob("*"))):
        try:
            runs.append(load_final_logits(run_dir.name, split, present))
        except UserError as error:
            left_out[run_dir.name] = str(error)
    if not runs:
        train = f"Train a model with: cxrlt train RECIPE --challenge {challenge.name}"
        raise UserError(
            f"Nothing can be scored on {challenge.name} {split} yet. "
            + (" ".join(left_out.values()) or train)
        )
    shared = present.table(split).index
    for run in runs:
        shared = shared.intersection(predicted_rows(run.logits), sort=False)
    evaluations = [_score(run.only(shared), split, present, n_draws, seed) for run in runs]
    evaluations.sort(key=lambda evaluation: -evaluation.overall.of(challenge.metric).value)
    draws = [evaluation.draws[challenge.metric] for evaluation in evaluations]
    differences = tuple(paired_difference(draws[0], each) for each in draws)
    return Leaderboard(split, tuple(evaluations), differences, left_out)


def _require_labels(split: str, present: Present) -> None:
    challenge = present.challenge
    if split != "oof" and present.table(split)[list(challenge.classes)].isna().all(axis=None):
        raise UserError(
            f"{challenge.name} {split} has no labels here. Once you have them: cxrlt score FILE --truth CSV "
            f"--challenge {challenge.name}"
        )


def _score(run: FinalLogits, split: str, present: Present, n_draws: int, seed: int) -> Evaluation:
    challenge, table = present.challenge, present.table(split)
    scores, beside = run.logits.loc[predicted_rows(run.logits)], {}
    if split == "oof":
        scores = oof_scores(run.logits, present.rows.fold, challenge.task)
        beside = _beside(challenge, present.rows, run, scores)
    elif challenge.task == "single_label":
        scores = probabilities(scores, challenge.task)
    notes = [OPTIMISTIC] if run.optimistic else []
    if n_missing := len(table) - len(scores):
        notes.append(f"{n_missing:,} of {len(table):,} rows have no prediction and do not count")
    return score_rows(
        challenge,
        scores,
        table,
        table["patient"],
        name=run.name,
        split=split,
        n_draws=n_draws,
        seed=seed,
        study_mean=run.study_mean.text,
        notes=(*notes, *notes_of(run.name, split, present)),
        **beside,
    )


def _beside(
    challenge: Challenge, rows: TrainRows, run: FinalLogits, scores: pd.DataFrame
) -> dict[str, object]:
    """What stands beside the defined out-of-fold score: each fold alone, their mean, raw logits pooled."""

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
