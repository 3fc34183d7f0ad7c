"""The final logits of a model or an ensemble for a split: complete, with ids and class names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import log_expit

from cxrlt.artifacts import Workspace, write_artifact
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.combine import collect_member_scores, combine_constants, combine_scores
from cxrlt.ensembles.provenance import (
    load_current_weights,
    oof_provenance,
    read_run_recipe,
    require_current_members,
)
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.metrics.resampling import Floats
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import is_ensemble, require_run
from cxrlt.predictions.standardise import Constants, mean_constants
from cxrlt.predictions.store import predict_command, read_fold
from cxrlt.predictions.study_mean import (
    CANDIDATE_WEIGHTS,
    StudyMean,
    StudyMeanRecord,
    choose_study_mean,
    fixed_study_mean,
    load_study_mean,
    study_mean,
)
from cxrlt.system.locks import lock_folder
from cxrlt.training.run_paths import WEIGHTS, fold_dir, train_run_command

STUDY_MEAN_FILE = "study_mean.json"


@dataclass(frozen=True)
class ModelScores:
    """Comparable scores of a model before any study mean.

    `frame` (index image_id, one column per class; NaN = not predicted) has standardised logits, or
    log-probabilities in single-label tasks; `constants` map them back to logits. `raw` are the pooled logits
    without standardisation (out-of-fold scores of multi-label models only). `optimistic`: the best epoch was
    chosen on the rows that are scored.
    """

    frame: pd.DataFrame
    constants: Constants
    raw: pd.DataFrame | None = None
    optimistic: bool = False


def get_current_data(
    challenge: Challenge, workspace: Workspace, name: str, *, partial: bool = False
) -> CurrentData:
    """Return the current data for a model or an ensemble; with `partial` only a model's finished folds.

    A finished fold has weights or out-of-fold predictions. Raises UserError for an unknown name, and with
    `partial` for an ensemble and for a model without a finished fold.
    """
    require_run(challenge, workspace, name)
    current, run_dir = CurrentData(challenge, workspace), workspace.run_dir(challenge.name, name)
    if not partial:
        return current
    if is_ensemble(run_dir):
        raise UserError(f"--partial needs a single model, and {name} is an ensemble. Use one of its members.")
    finished = [
        fold
        for fold in current.folds.fold_numbers
        if any((fold_dir(run_dir, fold) / file).is_file() for file in (WEIGHTS, "oof.parquet"))
    ]
    if not finished:
        command = train_run_command(run_dir, challenge.name)
        raise UserError(f"No fold of {name} is finished. Train it with: {command}")
    return current.for_folds(finished)


def load_oof_scores(name: str, current: CurrentData) -> ModelScores:
    """Return the out-of-fold scores of a model, with the rows and the order of `current.rows`.

    Raises UserError with the command that fixes it for a missing fold or row, a row of another fold, an
    unknown class, or outdated predictions.
    """
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    if (run_dir / REFIT).is_dir():
        raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
    folds = [read_fold(run_dir, fold, "oof", current) for fold in current.folds.fold_numbers]
    ids = current.rows.table.index
    frame = pd.concat([fold.constants.apply(fold.logits) for fold in folds]).loc[ids]
    raw = None
    if current.challenge.task == "multi_label":
        raw = pd.concat([fold.logits for fold in folds]).loc[ids]
    optimistic = any(fold.meta.epoch == "best" for fold in folds)
    return ModelScores(frame, mean_constants([fold.constants for fold in folds]), raw, optimistic)


def load_split_scores(name: str, split: str, current: CurrentData) -> ModelScores:
    """Return the scores of a model for dev or test: standardised per fold, then averaged over folds.

    A refit is a single fold. Raises UserError as `load_oof_scores` does, and if folds have different ids.
    """
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    folds = [REFIT] if (run_dir / REFIT).is_dir() else current.folds.fold_numbers
    constants, mean = [], None
    for each in folds:  # one at a time: 377,110 rows x 40 classes are 120 MB per fold
        fold = read_fold(run_dir, each, split, current)
        constants.append(fold.constants)
        scores = fold.constants.apply(fold.logits)
        if mean is None:
            mean = scores * (1 / len(folds))
            continue
        if not scores.index.equals(mean.index):
            if len(odd := scores.index.symmetric_difference(mean.index)):
                command = predict_command(name, current.challenge.name, split)
                raise UserError(
                    f"the {split} predictions of {name}'s folds have different ids: {listing(odd)}. "
                    f"Predict again with: {command} --force"
                )
            scores = scores.loc[mean.index]
        mean += 1 / len(folds) * scores
    assert mean is not None  # a split has at least one fold
    return ModelScores(mean, mean_constants(constants))


def resolve_study_mean(name: str, current: CurrentData) -> StudyMean:
    """Return how a model's scores are averaged over studies: fixed by its recipe, or by out-of-fold scores.

    The choice is saved in the run's study_mean.json until predictions, labels or the recipe change. A refit
    has no out-of-fold rows and is averaged only if its recipe says "on".
    """
    challenge, run_dir = current.challenge, current.workspace.run_dir(current.challenge.name, name)
    refit = (run_dir / REFIT).is_dir()
    option, n_folds = read_run_recipe(run_dir, challenge).predict.study_mean, current.folds.n_folds
    if refit or option not in CANDIDATE_WEIGHTS:
        return fixed_study_mean(option, n_folds, "a refit" if refit else "as requested")
    path, now = run_dir / STUDY_MEAN_FILE, oof_provenance([name], current)
    saved = load_study_mean(path, option, now, n_folds)
    if saved is not None:
        return saved
    rows = current.rows.table
    chosen = choose_study_mean(challenge, load_oof_scores(name, current).frame, rows, option)
    if current.partial is None:
        with lock_folder(run_dir, wait=True):
            write_artifact(path, StudyMeanRecord(**chosen.model_dump(), provenance=now))
    return chosen


@dataclass(frozen=True)
class FinalLogits:
    """The logits that are scored and submitted (index image_id, one column per class; NaN = not predicted).

    They are averaged over folds, over members and, if `study_mean` says so, over studies. `raw` are the
    pooled out-of-fold logits of a multi-label model without standardisation. `optimistic`: the best epoch was
    chosen on the rows that are scored.
    """

    name: str
    logits: pd.DataFrame
    study_mean: StudyMean
    raw: pd.DataFrame | None = None
    optimistic: bool = False

    def select(self, ids: pd.Index) -> "FinalLogits":
        """Return a copy with only the rows `ids`."""
        return replace(self, logits=self.logits.loc[ids], raw=None if self.raw is None else self.raw.loc[ids])


def load_final_logits(
    name: str, split: str, current: CurrentData, *, exclude_fold: int | None = None
) -> FinalLogits:
    """Return the final logits of a model or an ensemble for "oof", "dev" or "test".

    A model's logits are gated if its recipe sets predict.gate; members of an ensemble and `raw` are not. Each
    out-of-fold row is computed with weights that were fitted without its fold. For a model, `current` may
    have some folds only; the other folds need no training then. `exclude_fold` (for "oof" only) computes
    every row with weights that were fitted without this fold, so that a later step can be fitted on the other
    folds. Raises ValueError for `exclude_fold` with another split, UserError as `load_oof_scores` does.
    """
    if exclude_fold is not None and split != "oof":
        raise ValueError(f"exclude_fold={exclude_fold} needs out-of-fold rows, not {split}.")
    excluded = [exclude_fold] if split != "oof" or exclude_fold is not None else current.folds.fold_numbers
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    load = _ensemble_logits if is_ensemble(run_dir) else _model_logits
    return load(name, split, current, excluded)


def _model_logits(name: str, split: str, current: CurrentData, excluded: Sequence[int | None]) -> FinalLogits:
    challenge, table = current.challenge, current.table(split)
    chosen = resolve_study_mean(name, current)
    scores = load_oof_scores(name, current) if split == "oof" else load_split_scores(name, split, current)
    parts = [
        (rows, chosen.for_fold(fold)) for rows, fold in _rows_by_fold(excluded, scores.frame.index, table)
    ]

    def average(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([study_mean(frame.loc[rows], table, weight) for rows, weight in parts])

    frame, raw = average(scores.frame), None if scores.raw is None else average(scores.raw)
    recipe = read_run_recipe(current.workspace.run_dir(challenge.name, name), challenge)
    logits = gate_by_no_finding(challenge, scores.constants.invert(frame), recipe.predict.gate)
    final = FinalLogits(name, logits, chosen, raw, scores.optimistic)
    return final.select(scores.frame.index)


def _ensemble_logits(
    name: str, split: str, current: CurrentData, excluded: Sequence[int | None]
) -> FinalLogits:
    challenge, table = current.challenge, current.table(split)
    weights = load_current_weights(name, current)
    if split == "oof":
        members = {member: load_oof_scores(member, current) for member in weights.members}
    else:
        members = {member: load_split_scores(member, split, current) for member in weights.active_members}
    require_current_members(name, weights, current)
    ids = next(iter(members.values())).frame.index
    for member, scores in members.items():
        if len(odd := scores.frame.index.symmetric_difference(ids)):
            raise UserError(
                f"the predictions of {name}'s member {member} have other ids than its other members: "
                f"{listing(odd)}. Predict again with: {predict_command(name, challenge.name, split)} --force"
            )
    constants = {member: scores.constants for member, scores in members.items()}
    logits = []
    for rows, fold in _rows_by_fold(excluded, ids, table):
        combination, frontal_weight = weights.for_fold(fold), weights.study_mean.for_fold(fold)
        frames = {member: scores.frame.loc[rows] for member, scores in members.items()}
        with_context = combination.context is not None
        member_scores = collect_member_scores(frames, table, frontal_weight, context=with_context)
        combined = combine_scores(member_scores, combination)
        logits.append(combine_constants(constants, combination).invert(combined))
    optimistic = any(scores.optimistic for scores in members.values())
    return FinalLogits(name, pd.concat(logits).loc[ids], weights.study_mean, optimistic=optimistic)


def _rows_by_fold(
    excluded: Sequence[int | None], ids: pd.Index, table: pd.DataFrame
) -> list[tuple[pd.Index, int | None]]:
    """Return pairs (ids, fold): ids computed without that fold; all ids if only one fold is excluded."""
    if len(excluded) == 1:
        return [(ids, excluded[0])]
    fold_of = table.loc[ids, "fold"]
    return [(ids[fold_of == fold], fold) for fold in excluded]


def gate_by_no_finding(challenge: Challenge, logits: pd.DataFrame, power: float) -> pd.DataFrame:
    """Gate logits (index image_id, one column per class) by the challenge's "no finding" class.

    A `power` of 0, the default of recipes, returns them unchanged. The third place of CXR-LT 2026 measured
    the gate on its own validation rows: gating an ASL model by "Normal" cost 0.010 to 0.046 mAP. The winner
    gates with a power of 0.5, on probabilities of a distribution-balanced loss. Raises UserError for a
    single-label task and for a challenge without a "no finding" class.
    """
    if not power:
        return logits
    if challenge.task == "single_label":
        raise UserError(f"{challenge.name} is a single-label task: set predict.gate to 0 in the recipe.")
    if challenge.no_finding is None:
        raise UserError(
            f"predict.gate {power:g} needs a class for images without a finding, which {challenge.name} does "
            "not have: set it to 0 in the recipe."
        )
    return gate_logits(logits, challenge.no_finding, power)


def gate_logits(logits: pd.DataFrame, no_finding: str, power: float) -> pd.DataFrame:
    """Return the logits of p_c * (1 - p_no_finding)^power for every other class c; NaN stays NaN.

    Logits have the index image_id and one column per class; `no_finding` is the name of its column.
    """
    values = logits.astype(np.float64)
    absent = power * log_expit(-values[[no_finding]].to_numpy())
    log_p = log_expit(values.to_numpy()) + absent
    gated = pd.DataFrame(log_p - _log1m_exp(log_p), logits.index, logits.columns)
    return gated.assign(**{no_finding: values[no_finding]}) if power else values


def _log1m_exp(log_p: Floats) -> Floats:
    """Return log(1 - p) for log p < 0, precise where p is near 1; near 0 the logit hides the difference."""
    with np.errstate(divide="ignore"):  # for a p that rounds to 1
        return np.log(-np.expm1(log_p))
