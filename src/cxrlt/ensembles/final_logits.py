"""What a model or an ensemble says about the rows of a split, read alike: complete, by id and by class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import log_expit

from cxrlt.artifacts import Workspace, write_model
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.combine import combined, combined_constants, evidence_of
from cxrlt.ensembles.current import (
    made_of_evidence,
    predicting_recipe,
    require_same_predictions,
    weights_of_split,
)
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.metrics.resampling import Floats
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import is_ensemble, require_run
from cxrlt.predictions.standardise import Constants, mean_constants
from cxrlt.predictions.store import predict_command, read_fold
from cxrlt.predictions.study_mean import (
    CANDIDATES,
    StudyMean,
    StudyMeanRecord,
    choose_study_mean,
    fixed_study_mean,
    kept_study_mean,
    study_mean,
)
from cxrlt.system.locks import exclusive
from cxrlt.training.run_paths import WEIGHTS, unit_dir

STUDY_MEAN_FILE = "study_mean.json"


@dataclass(frozen=True)
class ModelScores:
    """Comparable scores (index image_id, a column per class; NaN = not predicted) before any study mean.

    They are standardised logits, or log-probabilities with one class per row; `constants` map them back to
    logits. `raw` are the pooled logits as they are on disk (out-of-fold scores of a multi-label model only).
    `optimistic` says that the rows chose the epoch they are scored on.
    """

    frame: pd.DataFrame
    constants: Constants
    raw: pd.DataFrame | None = None
    optimistic: bool = False


def present_for(challenge: Challenge, workspace: Workspace, name: str, *, partial: bool = False) -> Present:
    """What there is now for a model or an ensemble: with `partial` the finished folds of a model alone.

    A finished fold has weights or out-of-fold predictions. Raises UserError for an unknown name, and with
    `partial` for an ensemble, and for a model without a finished fold.
    """
    require_run(challenge, workspace, name)
    present, run_dir = Present(challenge, workspace), workspace.run_dir(challenge.name, name)
    if not partial:
        return present
    if is_ensemble(run_dir):
        raise UserError(f"--partial is of single models, and {name} is an ensemble: name one of its members.")
    finished = [
        fold
        for fold in present.folds.held
        if any((unit_dir(run_dir, fold) / file).is_file() for file in (WEIGHTS, "oof.parquet"))
    ]
    if not finished:
        raise UserError(f"No fold of {name} is finished. Train it with: cxrlt train")
    return present.only(finished)


def read_oof(name: str, present: Present) -> ModelScores:
    """Out-of-fold scores of a model, a row per row in the folds that `present` holds, and in their order.

    Raises UserError naming the command that fixes it for a missing fold or row, a row of another fold, an
    unknown class, or predictions made of something else than there is now.
    """
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    if (run_dir / REFIT).is_dir():
        raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
    folds = [read_fold(run_dir, fold, "oof", present) for fold in present.folds.held]
    ids = present.rows.table.index
    frame = pd.concat([fold.constants.apply(fold.logits) for fold in folds]).loc[ids]
    raw = None
    if present.challenge.task == "multi_label":
        raw = pd.concat([fold.logits for fold in folds]).loc[ids]
    optimistic = any(fold.meta.epoch == "best" for fold in folds)
    return ModelScores(frame, mean_constants([fold.constants for fold in folds]), raw, optimistic)


def read_split(name: str, split: str, present: Present) -> ModelScores:
    """Scores of a model for dev or test: standardised fold by fold, then averaged; a refit has one fold.

    Raises UserError as `read_oof`, and if folds hold different ids.
    """
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    folds = [REFIT] if (run_dir / REFIT).is_dir() else present.folds.held
    constants, mean = [], None
    for each in folds:  # one at a time: at 377,110 rows of 40 classes each is 120 MB
        fold = read_fold(run_dir, each, split, present)
        constants.append(fold.constants)
        scores = fold.constants.apply(fold.logits)
        if mean is None:
            mean = scores * (1 / len(folds))
            continue
        if not scores.index.equals(mean.index):
            if len(odd := scores.index.symmetric_difference(mean.index)):
                command = predict_command(name, present.challenge.name, split)
                raise UserError(
                    f"the {split} predictions of {name}'s folds do not hold the same ids: {listing(odd)}. "
                    f"Predict again with: {command} --force"
                )
            scores = scores.loc[mean.index]
        mean += 1 / len(folds) * scores
    return ModelScores(mean, mean_constants(constants))


def study_mean_of(name: str, present: Present) -> StudyMean:
    """How a model's scores are averaged over studies: as its recipe says, or as out-of-fold rows say.

    What they say is kept in the run's study_mean.json until predictions, labels or the recipe change. A refit
    has no such rows and is averaged only if its recipe says "on".
    """
    challenge, run_dir = present.challenge, present.workspace.run_dir(present.challenge.name, name)
    refit = (run_dir / REFIT).is_dir()
    option, n_folds = predicting_recipe(run_dir, challenge).predict.study_mean, present.folds.n_folds
    if refit or option not in CANDIDATES:
        return fixed_study_mean(option, n_folds, "a refit" if refit else "as asked for")
    path, now = run_dir / STUDY_MEAN_FILE, made_of_evidence([name], present)
    kept = kept_study_mean(path, option, now, n_folds)
    if kept is not None:
        return kept
    rows = present.rows.table
    chosen = choose_study_mean(challenge, read_oof(name, present).frame, rows, option)
    if present.partial is None:
        with exclusive(run_dir, wait=True):
            write_model(path, StudyMeanRecord(**chosen.model_dump(), made_of=now))
    return chosen


@dataclass(frozen=True)
class FinalLogits:
    """What is scored and submitted: logits (index image_id, a column per class; NaN = not predicted).

    They are means over folds, over members and, as `study_mean` says, over studies. `raw` are the pooled
    out-of-fold logits of a multi-label model without standardisation. `optimistic`: the rows chose the epoch
    they are scored on.
    """

    name: str
    logits: pd.DataFrame
    study_mean: StudyMean
    raw: pd.DataFrame | None = None
    optimistic: bool = False

    def only(self, ids: pd.Index) -> "FinalLogits":
        """The same for these rows."""
        return replace(self, logits=self.logits.loc[ids], raw=None if self.raw is None else self.raw.loc[ids])


def load_final_logits(
    name: str, split: str, present: Present, *, exclude_fold: int | None = None
) -> FinalLogits:
    """Predictions of a model or an ensemble for "oof", "dev" or "test", as they are scored and submitted.

    A model's are gated if its recipe asks for it; an ensemble's members are not, and `raw` never is. An
    out-of-fold row is computed with what was fitted without its fold. Of a model, `present` may hold
    some folds alone; the others need not be trained then. `exclude_fold` (of "oof" only) computes every row
    with what was fitted without that fold: what comes after may be fitted on the other folds' rows.
    """
    if exclude_fold is not None and split != "oof":
        raise ValueError(f"exclude_fold={exclude_fold} is of out-of-fold rows, not of {split}.")
    excluded = [exclude_fold] if split != "oof" or exclude_fold is not None else present.folds.held
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    load = _ensemble_logits if is_ensemble(run_dir) else _model_logits
    return load(name, split, present, excluded)


def _model_logits(name: str, split: str, present: Present, excluded: Sequence[int | None]) -> FinalLogits:
    challenge, table = present.challenge, present.table(split)
    chosen = study_mean_of(name, present)
    scores = read_oof(name, present) if split == "oof" else read_split(name, split, present)
    parts = [
        (rows, chosen.for_fold(fold)) for rows, fold in _rows_by_fold(excluded, scores.frame.index, table)
    ]
    frame, raw = (
        None if each is None else pd.concat([study_mean(each.loc[rows], table, how) for rows, how in parts])
        for each in (scores.frame, scores.raw)
    )
    recipe = predicting_recipe(present.workspace.run_dir(challenge.name, name), challenge)
    logits = gate_by_no_finding(challenge, scores.constants.invert(frame), recipe.predict.gate)
    final = FinalLogits(name, logits, chosen, raw, scores.optimistic)
    return final.only(scores.frame.index)


def _ensemble_logits(name: str, split: str, present: Present, excluded: Sequence[int | None]) -> FinalLogits:
    challenge, table = present.challenge, present.table(split)
    weights = weights_of_split(name, present)
    if split == "oof":
        members = {member: read_oof(member, present) for member in weights.members}
    else:
        members = {member: read_split(member, split, present) for member in weights.used}
    require_same_predictions(name, weights, present)
    ids = next(iter(members.values())).frame.index
    for member, scores in members.items():
        if len(odd := scores.frame.index.symmetric_difference(ids)):
            raise UserError(
                f"the predictions of {name}'s member {member} do not hold the ids of the others: "
                f"{listing(odd)}. Predict again with: {predict_command(name, challenge.name, split)} --force"
            )
    constants = {member: scores.constants for member, scores in members.items()}
    logits = []
    for rows, fold in _rows_by_fold(excluded, ids, table):
        combination, frontal = weights.for_fold(fold), weights.study_mean.for_fold(fold)
        frames = {member: scores.frame.loc[rows] for member, scores in members.items()}
        evidence = evidence_of(frames, table, frontal, context=combination.context is not None)
        logits.append(combined_constants(constants, combination).invert(combined(evidence, combination)))
    optimistic = any(scores.optimistic for scores in members.values())
    return FinalLogits(name, pd.concat(logits).loc[ids], weights.study_mean, optimistic=optimistic)


def _rows_by_fold(
    excluded: Sequence[int | None], ids: pd.Index, table: pd.DataFrame
) -> list[tuple[pd.Index, int | None]]:
    """(rows, fold): every fold's rows with the fold, to be computed without it, or all rows if it is one."""
    if len(excluded) == 1:
        return [(ids, excluded[0])]
    fold_of = table.loc[ids, "fold"]
    return [(ids[fold_of == fold], fold) for fold in excluded]


def gate_by_no_finding(challenge: Challenge, logits: pd.DataFrame, power: float) -> pd.DataFrame:
    """`logits` gated by the challenge's class for images without a finding: off unless a recipe asks for it.

    It has hurt where it was measured, by third place of CXR-LT 2026 on its own validation rows: gating by
    "Normal" cost an ASL model .010 to .046 mAP (the winner gates at a power of .5, on a distribution-balanced
    loss's probabilities). Raises UserError for one class per row, and where no class means that nothing was
    found.
    """
    if not power:
        return logits
    if challenge.task == "single_label":
        raise UserError(f"{challenge.name} has one class per row: set predict.gate to 0 in the recipe.")
    if challenge.no_finding is None:
        raise UserError(
            f"predict.gate {power:g} needs a class for images without a finding, which {challenge.name} does "
            "not have: set it to 0 in the recipe."
        )
    return gate(logits, challenge.no_finding, power)


def gate(logits: pd.DataFrame, no_finding: str, power: float) -> pd.DataFrame:
    """Logits of p_c (1 - p of `no_finding`)^power for every other class; NaN stays NaN."""
    values = logits.astype(np.float64)
    absent = power * log_expit(-values[[no_finding]].to_numpy())
    log_p = log_expit(values.to_numpy()) + absent
    gated = pd.DataFrame(log_p - _log1m_exp(log_p), logits.index, logits.columns)
    return gated.assign(**{no_finding: values[no_finding]}) if power else values


def _log1m_exp(log_p: Floats) -> Floats:
    """log(1 - p) for log p < 0, without loss where p is near 1; near p = 0 it is lost in the logit anyway."""
    with np.errstate(divide="ignore"):  # of a p that rounds to 1
        return np.log(-np.expm1(log_p))
