"""What a model or an ensemble says about the rows of a split, read alike: complete, by id and by class."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace, write_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds, read_folds
from cxrlt.locks import exclusive
from cxrlt.predictions.combine import combined, combined_constants, evidence_of
from cxrlt.predictions.fingerprint import current_weights, evidence_fingerprint, require_same_evidence
from cxrlt.predictions.fold_files import constants_of_fold, predict_command, read_fold, require_ids
from cxrlt.predictions.postprocess import postprocess
from cxrlt.predictions.standardise import Constants, constants_of, mean_constants
from cxrlt.predictions.trained import recipe_of
from cxrlt.predictions.view_weights import (
    CANDIDATES,
    StudyMean,
    averaged,
    choose_study_mean,
    fixed_study_mean,
    kept_study_mean,
)
from cxrlt.predictions.weights import is_ensemble
from cxrlt.recipe import PredictConfig
from cxrlt.training.places import REFIT

STUDY_MEAN_FILE = "study_mean.json"


@dataclass(frozen=True)
class Scores:
    """Comparable scores (index image_id, a column per class; NaN = not predicted) before any study mean.

    They are standardised logits, or log-probabilities with one class per row; `constants` map them back to
    logits. `raw` are the pooled logits as they are on disk (out-of-fold scores of a multi-label model only).
    `optimistic` says that the rows chose the epoch they are scored on.
    """

    frame: pd.DataFrame
    constants: Constants
    raw: pd.DataFrame | None = None
    optimistic: bool = False


def holds_run(run_dir: Path) -> bool:
    """Whether a folder is a model's or an ensemble's, and not one that groups such folders."""
    return is_ensemble(run_dir) or (run_dir / REFIT).is_dir() or any(run_dir.glob("fold[0-9]*"))


@dataclass(frozen=True)
class TrainRows:
    """The training rows that were split into folds, with labels and `fold`, in the order of folds.csv."""

    folds: Folds
    table: pd.DataFrame

    @property
    def fold(self) -> pd.Series:
        return self.folds.frame["fold"]

    def only(self, folds: Collection[int]) -> "TrainRows":
        """The rows of these folds alone."""
        return TrainRows(self.folds.only(folds), self.table[self.table["fold"].isin(folds)])


def read_train_rows(challenge: Challenge, workspace: Workspace) -> TrainRows:
    """Raises UserError if there are no folds, or if they hold rows that the table lacks."""
    folds = read_folds(challenge, workspace)
    table = challenge.read("train", workspace.inputs_dir(challenge.name))
    gone = folds.frame.index.difference(table.index, sort=False)
    if len(gone):
        raise UserError(
            f"{workspace.folds_path(challenge.name)} holds rows that the training table lacks: "
            f"{listing(gone)}. Make the folds anew with: cxrlt folds {challenge.name} --force"
        )
    return TrainRows(folds, table.loc[folds.frame.index].assign(fold=folds.frame["fold"]))


def read_oof(challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows | None = None) -> Scores:
    """Out-of-fold scores of a model, one row per row of folds.csv, or of `rows`, and in their order.

    Raises UserError naming the command that mends it for a missing fold or row, a row of another fold, an
    unknown class, or predictions made on another split of the data into folds.
    """
    run_dir = workspace.run_dir(challenge.name, name)
    folds = rows.folds if rows else read_folds(challenge, workspace)
    if (run_dir / REFIT).is_dir():
        raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
    parts, raws, constants, epochs = [], [], [], set()
    for fold in folds.held:
        logits, meta = read_fold(run_dir, fold, "oof", challenge, folds)
        require_ids(run_dir / f"fold{fold}" / "oof.parquet", logits.index, folds, fold, challenge.name)
        constants.append(constants_of_fold(run_dir, fold, challenge, folds))
        parts.append(constants[-1].apply(logits))
        raws.append(logits)
        epochs.add(meta.get("epoch"))
    frame, raw = (pd.concat(frames).loc[folds.frame.index] for frames in (parts, raws))
    raw = raw if challenge.task == "multi_label" else None
    return Scores(frame, mean_constants(constants), raw, optimistic="best" in epochs)


def read_split(challenge: Challenge, workspace: Workspace, name: str, split: str) -> Scores:
    """Scores of a model for dev or test: standardised fold by fold, then averaged.

    A refit has one set of logits and no out-of-fold ones: they are standardised with their own constants.
    Raises UserError as `read_oof`, and if folds hold different ids.
    """
    run_dir, folds = workspace.run_dir(challenge.name, name), read_folds(challenge, workspace)
    if (run_dir / REFIT).is_dir():
        logits, _ = read_fold(run_dir, REFIT, split, challenge, folds)
        constants = constants_of(logits, challenge.task)
        return Scores(constants.apply(logits), constants)
    units = range(folds.n_folds)
    constants = [constants_of_fold(run_dir, fold, challenge, folds) for fold in units]
    frames = (  # one at a time: at 377,110 rows of 40 classes each is 120 MB
        part.apply(read_fold(run_dir, fold, split, challenge, folds)[0])
        for fold, part in zip(units, constants, strict=True)
    )
    fix = f"{predict_command(name, challenge.name, split)} --force"
    mean = weighted_mean(
        frames, [1 / folds.n_folds] * folds.n_folds, f"the {split} predictions of {name}'s folds", fix
    )
    return Scores(mean, mean_constants(constants))


def study_mean_of(
    challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows | None = None
) -> StudyMean:
    """How a model's scores are averaged over studies: as its recipe says, or as out-of-fold rows say.

    What they say is kept in the run's study_mean.json until predictions, labels or the recipe change. A refit
    has no such rows and is averaged only if its recipe says "on".
    """
    run_dir = workspace.run_dir(challenge.name, name)
    refit = (run_dir / REFIT).is_dir()
    option = _predict_options(run_dir, challenge).study_mean
    if refit or option not in CANDIDATES:
        n_folds = read_folds(challenge, workspace).n_folds
        return fixed_study_mean(option, n_folds, "a refit" if refit else "as asked for")
    rows = rows or read_train_rows(challenge, workspace)
    path = run_dir / STUDY_MEAN_FILE
    made_of = evidence_fingerprint([run_dir], rows.table, challenge.classes)
    kept = kept_study_mean(path, option, made_of, rows.folds.n_folds)
    if kept is not None:
        return kept
    chosen = choose_study_mean(challenge, read_oof(challenge, workspace, name).frame, rows.table, option)
    with exclusive(run_dir, wait=True):
        write_json(path, chosen.to_json() | {"made_of": made_of})
    return chosen


@dataclass(frozen=True)
class Final:
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

    def only(self, ids: pd.Index) -> "Final":
        """The same for these rows."""
        return replace(self, logits=self.logits.loc[ids], raw=None if self.raw is None else self.raw.loc[ids])


def read_final(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str,
    rows: TrainRows | None = None,
    *,
    without: int | None = None,
) -> Final:
    """Predictions of a model or an ensemble for "oof", "dev" or "test", as they are scored and submitted.

    A model's are gated and smoothed if its recipe asks for it; an ensemble's members are not, nor is `raw`.
    An out-of-fold row is computed with what was fitted without its fold. Of a model, `rows` may be those of
    some folds; the others need not be trained then. `without` (of "oof" only) computes every row with what
    was fitted without that fold: what comes after may be fitted on the other folds' rows.
    """
    if without is not None and split != "oof":
        raise ValueError(f"without={without} is of out-of-fold rows, not of {split}.")
    oof = split == "oof"
    rows = (rows or read_train_rows(challenge, workspace)) if oof else rows
    table = rows.table if oof else challenge.read(split, workspace.inputs_dir(challenge.name))
    units = [None] if not oof else rows.folds.held if without is None else [without]
    if is_ensemble(workspace.run_dir(challenge.name, name)):
        return _ensemble(challenge, workspace, name, split, table, units)
    how = study_mean_of(challenge, workspace, name, rows)
    scores = (
        read_oof(challenge, workspace, name, rows) if oof else read_split(challenge, workspace, name, split)
    )

    def over_studies(frame: pd.DataFrame) -> pd.DataFrame:
        return _by_unit(
            units, frame.index, table, lambda ids, unit: averaged(frame.loc[ids], table, how.of(unit))
        )

    raw = None if scores.raw is None else over_studies(scores.raw)
    logits = scores.constants.invert(over_studies(scores.frame))
    options = _predict_options(workspace.run_dir(challenge.name, name), challenge)
    if options.gate or options.smooth:
        labels = rows or read_train_rows(challenge, workspace)
        logits = _postprocessed(challenge, logits, options, labels, table, units)
    return Final(name, logits, how, raw, scores.optimistic)


def weighted_mean(
    frames: Iterable[pd.DataFrame], weights: Sequence[float], what: str, made_by: str
) -> pd.DataFrame:
    """Sum of weight x frame, joined by id. Raises UserError if the ids differ."""
    total = None
    for frame, weight in zip(frames, weights, strict=True):
        if total is None:
            total = frame * weight
            continue
        if not frame.index.equals(total.index):
            odd = frame.index.symmetric_difference(total.index)
            if len(odd):
                raise UserError(
                    f"{what} do not hold the same ids: {listing(odd)}. Predict again with: {made_by}"
                )
            frame = frame.loc[total.index]
        total += weight * frame
    return total


def _postprocessed(
    challenge: Challenge,
    logits: pd.DataFrame,
    options: PredictConfig,
    labels: TrainRows,
    table: pd.DataFrame,
    units: Sequence[int | None],
) -> pd.DataFrame:
    """`logits` after the recipe's gate and smoothing, a fold's rows by the labels of the others."""

    def part_of(ids: pd.Index, unit: int | None) -> pd.DataFrame:
        return postprocess(challenge, logits.loc[ids], options, labels.table[labels.fold != unit])

    return _by_unit(units, logits.index, table, part_of)


def _predict_options(run_dir: Path, challenge: Challenge) -> PredictConfig:
    unit = REFIT if (run_dir / REFIT).is_dir() else "fold0"
    return recipe_of(run_dir / unit, challenge.name).predict


def _by_unit(
    units: Sequence[int | None],
    ids: pd.Index,
    table: pd.DataFrame,
    of: Callable[[pd.Index, int | None], pd.DataFrame],
) -> pd.DataFrame:
    """Every row from what was fitted without its fold, or all from the one unit there is."""
    if len(units) == 1:
        return of(ids, units[0])
    fold = table.loc[ids, "fold"]
    return pd.concat([of(ids[fold == unit], unit) for unit in units]).loc[ids]


def _ensemble(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str,
    table: pd.DataFrame,
    units: Sequence[int | None],
) -> Final:
    folds = read_folds(challenge, workspace)
    weights = current_weights(workspace.run_dir(challenge.name, name), challenge, folds)
    if split == "oof":
        members = {member: read_oof(challenge, workspace, member) for member in weights.members}
    else:
        members = {member: read_split(challenge, workspace, member, split) for member in weights.used}
    require_same_evidence(workspace, name, weights, challenge)
    frames = {member: scores.frame for member, scores in members.items()}
    constants = {member: scores.constants for member, scores in members.items()}
    again = f"{predict_command(name, challenge.name, split)} --force"
    _require_same_ids(name, frames, again)

    def logits_of(ids: pd.Index, unit: int | None) -> pd.DataFrame:
        how = weights.of(unit)
        parts = {member: frame.loc[ids] for member, frame in frames.items()}
        context = how.context is not None
        evidence = evidence_of(parts, table, weights.study_mean.of(unit), context=context)
        return combined_constants(constants, how).invert(combined(evidence, how))

    logits = _by_unit(units, next(iter(frames.values())).index, table, logits_of)
    optimistic = any(scores.optimistic for scores in members.values())
    return Final(name, logits, weights.study_mean, optimistic=optimistic)


def _require_same_ids(name: str, frames: Mapping[str, pd.DataFrame], again: str) -> None:
    ids = next(iter(frames.values())).index
    for member, frame in frames.items():
        if len(odd := frame.index.symmetric_difference(ids)):
            raise UserError(
                f"the predictions of {name}'s member {member} do not hold the ids of the others: "
                f"{listing(odd)}. Predict again with: {again}"
            )
