"""What a model or an ensemble says about the rows of a split, read alike: complete, by id and by class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cxrlt.artifacts import Workspace, write_model
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.combine import combined, combined_constants, evidence_of
from cxrlt.ensembles.evidence import (
    made_of_evidence,
    predicting_recipe,
    require_same_predictions,
    weights_of_split,
)
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.predictions.fold_files import constants_of_fold, predict_command, read_fold, require_ids
from cxrlt.predictions.gate import gate_by_no_finding
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.predictions.standardise import Constants, constants_of, mean_constants
from cxrlt.predictions.study_mean import (
    CANDIDATES,
    StudyMean,
    StudyMeanRecord,
    averaged,
    choose_study_mean,
    fixed_study_mean,
    kept_study_mean,
)
from cxrlt.predictions.trained import fold_dirs
from cxrlt.system.locks import exclusive
from cxrlt.training.run_paths import WEIGHTS, fold_of

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


def finished_folds(name: str, present: Present) -> list[int]:
    """The folds of a model that have weights or out-of-fold predictions. Raises UserError if none has."""
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    if is_ensemble(run_dir):
        raise UserError(f"--partial is of single models, and {name} is an ensemble: name one of its members.")
    found = [
        int(fold_of(directory))
        for directory in fold_dirs(run_dir)
        if directory.name != REFIT and any((directory / file).is_file() for file in (WEIGHTS, "oof.parquet"))
    ]
    found = [fold for fold in found if fold in present.folds.held]
    if not found:
        raise UserError(f"No fold of {name} is finished. Train it with: cxrlt train")
    return found


def read_oof(name: str, present: Present) -> Scores:
    """Out-of-fold scores of a model, a row per row in the folds that `present` holds, and in their order.

    Raises UserError naming the command that fixes it for a missing fold or row, a row of another fold, an
    unknown class, or predictions made of something else than there is now.
    """
    challenge, run_dir = present.challenge, present.workspace.run_dir(present.challenge.name, name)
    if (run_dir / REFIT).is_dir():
        raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
    parts, raws, constants, epochs = [], [], [], set()
    for fold in present.folds.held:
        logits, meta = read_fold(run_dir, fold, "oof", present)
        require_ids(run_dir / f"fold{fold}" / "oof.parquet", logits.index, present, fold)
        constants.append(constants_of_fold(run_dir, fold, present))
        parts.append(constants[-1].apply(logits))
        raws.append(logits)
        epochs.add(meta.epoch)
    frame, raw = (pd.concat(frames).loc[present.rows.table.index] for frames in (parts, raws))
    raw = raw if challenge.task == "multi_label" else None
    return Scores(frame, mean_constants(constants), raw, optimistic="best" in epochs)


def read_split(name: str, split: str, present: Present) -> Scores:
    """Scores of a model for dev or test: standardised fold by fold, then averaged.

    A refit has one set of logits and no out-of-fold ones: they are standardised with their own constants.
    Raises UserError as `read_oof`, and if folds hold different ids.
    """
    challenge, run_dir = present.challenge, present.workspace.run_dir(present.challenge.name, name)
    if (run_dir / REFIT).is_dir():
        logits, _ = read_fold(run_dir, REFIT, split, present)
        constants = constants_of(logits, challenge.task)
        return Scores(constants.apply(logits), constants)
    units = present.folds.held
    constants = [constants_of_fold(run_dir, fold, present) for fold in units]
    frames = (  # one at a time: at 377,110 rows of 40 classes each is 120 MB
        part.apply(read_fold(run_dir, fold, split, present)[0])
        for fold, part in zip(units, constants, strict=True)
    )
    fix = f"{predict_command(name, challenge.name, split)} --force"
    mean = weighted_mean(
        frames, [1 / len(units)] * len(units), f"the {split} predictions of {name}'s folds", fix
    )
    return Scores(mean, mean_constants(constants))


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
    present: Present | None = None,
    *,
    without: int | None = None,
) -> Final:
    """Predictions of a model or an ensemble for "oof", "dev" or "test", as they are scored and submitted.

    A model's are gated if its recipe asks for it; an ensemble's members are not, and `raw` never is. An
    out-of-fold row is computed with what was fitted without its fold. Of a model, `present` may hold
    some folds alone; the others need not be trained then. `without` (of "oof" only) computes every row with
    what was fitted without that fold: what comes after may be fitted on the other folds' rows.
    """
    if without is not None and split != "oof":
        raise ValueError(f"without={without} is of out-of-fold rows, not of {split}.")
    present = present or Present(challenge, workspace)
    oof, table = split == "oof", present.table(split)
    units = [None] if not oof else present.folds.held if without is None else [without]
    run_dir = workspace.run_dir(challenge.name, name)
    if is_ensemble(run_dir):
        return _ensemble(name, split, present, units)
    how = study_mean_of(name, present)
    scores = read_oof(name, present) if oof else read_split(name, split, present)

    def over_studies(frame: pd.DataFrame) -> pd.DataFrame:
        return _by_unit(
            units, frame.index, table, lambda ids, unit: averaged(frame.loc[ids], table, how.of(unit))
        )

    raw = None if scores.raw is None else over_studies(scores.raw)
    logits = scores.constants.invert(over_studies(scores.frame))
    gated = gate_by_no_finding(challenge, logits, predicting_recipe(run_dir, challenge).predict.gate)
    return Final(name, gated, how, raw, scores.optimistic)


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


def _ensemble(name: str, split: str, present: Present, units: Sequence[int | None]) -> Final:
    challenge, table = present.challenge, present.table(split)
    weights = weights_of_split(name, present)
    if split == "oof":
        members = {member: read_oof(member, present) for member in weights.members}
    else:
        members = {member: read_split(member, split, present) for member in weights.used}
    require_same_predictions(name, weights, present)
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
