"""The stage `cxrlt evaluate`: score a model or an ensemble, or everything trained side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.evidence import marks_of
from cxrlt.ensembles.final_logits import Final, finished_folds, read_final
from cxrlt.errors import UserError
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import Interval, macro, paired_difference
from cxrlt.predictions.present import Present, partial_note
from cxrlt.predictions.run_names import holds_run, require_run
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
    require_run(challenge, workspace, name)
    truth = _read_truth(Present(challenge, workspace), split)
    if partial:
        truth = replace(truth, present=truth.present.only(finished_folds(name, truth.present)))
    evaluation = _score(truth, _read(name, truth), n_draws, seed)
    folder = workspace.submission_dir(challenge.name, name)
    with exclusive(folder, wait=True):
        write_json(folder / SCORE, _scores_in(folder / SCORE) | {split: evaluation.to_json()})
    return evaluation


def _scores_in(path: Path) -> dict[str, object]:
    """The scores of all splits; none where the file is missing or damaged."""
    try:
        return read_json(path, "cxrlt evaluate")
    except UserError:
        return {}


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
    truth = _read_truth(Present(challenge, workspace), split)
    runs, left_out = [], {}
    for run_dir in sorted(filter(holds_run, workspace.folds_dir(challenge.name).glob("*"))):
        try:
            runs.append(_read(run_dir.name, truth))
        except UserError as error:
            left_out[run_dir.name] = str(error)
    if not runs:
        train = f"Train a model with: cxrlt train RECIPE --challenge {challenge.name}"
        raise UserError(
            f"Nothing can be scored on {challenge.name} {split} yet. "
            + (" ".join(left_out.values()) or train)
        )
    shared = truth.table.index
    for run in runs:
        shared = shared.intersection(predicted_rows(run.logits), sort=False)
    evaluations = [_score(truth, run.only(shared), n_draws, seed) for run in runs]
    evaluations.sort(key=lambda evaluation: -evaluation.overall.of(challenge.metric).value)
    draws = [evaluation.draws[challenge.metric] for evaluation in evaluations]
    differences = tuple(paired_difference(draws[0], each) for each in draws)
    return Leaderboard(split, tuple(evaluations), differences, left_out)


@dataclass(frozen=True)
class _Truth:
    """A split, and what there is now of it."""

    split: str
    present: Present

    @property
    def challenge(self) -> Challenge:
        return self.present.challenge

    @property
    def table(self) -> pd.DataFrame:
        """The rows with their labels; out of fold those of the folds at which is looked."""
        return self.present.table(self.split)


def _read_truth(present: Present, split: str) -> _Truth:
    challenge, truth = present.challenge, _Truth(split, present)
    if split != "oof" and truth.table[list(challenge.classes)].isna().all(axis=None):
        raise UserError(
            f"{challenge.name} {split} has no labels here. Once you have them: cxrlt score FILE --truth CSV "
            f"--challenge {challenge.name}"
        )
    return truth


def _read(name: str, truth: _Truth) -> Final:
    return read_final(truth.challenge, truth.present.workspace, name, truth.split, truth.present)


def _score(truth: _Truth, run: Final, n_draws: int, seed: int) -> Evaluation:
    challenge, table = truth.challenge, truth.table
    scores, beside = run.logits.loc[predicted_rows(run.logits)], {}
    if truth.split == "oof":
        scores = oof_scores(run.logits, truth.present.rows.fold, challenge.task)
        beside = _beside(challenge, truth.present.rows, run, scores)
    elif challenge.task == "single_label":
        scores = probabilities(scores, challenge.task)
    return score_rows(
        challenge,
        scores,
        table,
        table["patient"],
        name=run.name,
        split=truth.split,
        n_draws=n_draws,
        seed=seed,
        study_mean=run.study_mean.text,
        notes=tuple(_notes(truth, run, len(table) - len(scores))),
        **beside,
    )


def _notes(truth: _Truth, run: Final, n_missing: int) -> list[str]:
    """What is to be known beside the score: of the run, of the rows, of data that have changed."""
    present = truth.present
    notes = [OPTIMISTIC] if run.optimistic else []
    if n_missing:
        notes.append(f"{n_missing:,} of {len(truth.table):,} rows have no prediction and do not count")
    if present.partial is not None:
        notes.append(partial_note(present))
    if truth.split == "oof":
        notes += present.rows.notes(present.challenge.name)
    return [*notes, *present.unknown_pixels(truth.split), *marks_of(run.name, present)]


def _beside(challenge: Challenge, rows: TrainRows, run: Final, scores: pd.DataFrame) -> dict[str, object]:
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
