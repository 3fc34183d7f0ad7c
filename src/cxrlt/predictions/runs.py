"""What a model or an ensemble says about the rows of a split, read alike: complete, by id and by class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace, name_of_run
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.make import Folds, read_folds
from cxrlt.predictions.oof import study_mean_helps
from cxrlt.predictions.probabilities import comparable_logits
from cxrlt.predictions.standardise import Constants, constants_of, mean_constants, read_constants
from cxrlt.predictions.store import read_predictions
from cxrlt.predictions.study import study_mean
from cxrlt.predictions.weights import EnsembleWeights, is_ensemble, read_weights
from cxrlt.recipe import load_recipe, recipe_names
from cxrlt.training.job import REFIT, WEIGHTS


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
    """The training rows that were split into folds, with their labels, in the order of folds.csv."""

    folds: Folds
    table: pd.DataFrame

    @property
    def fold(self) -> pd.Series:
        return self.folds.frame["fold"]


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
    return TrainRows(folds, table.loc[folds.frame.index])


def read_oof(challenge: Challenge, workspace: Workspace, name: str) -> Scores:
    """Out-of-fold scores of a model or an ensemble, one row per row of folds.csv and in its order.

    Raises UserError naming the command that mends it for a missing fold or row, a row of another fold, an
    unknown class, or predictions made on another split of the data into folds.
    """
    run_dir, folds = workspace.run_dir(challenge.name, name), read_folds(challenge, workspace)
    if is_ensemble(run_dir):
        weights = _weights(run_dir, challenge, folds)
        members = [read_oof(challenge, workspace, member) for member in weights.used]
        return _averaged(members, weights, name)
    if (run_dir / REFIT).is_dir():
        raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
    parts, raws, constants, epochs = [], [], [], set()
    for fold in range(folds.n_folds):
        logits, meta = _read_fold(run_dir, fold, "oof", challenge, folds)
        _require_ids(run_dir / f"fold{fold}" / "oof.parquet", logits.index, folds, fold, challenge.name)
        constants.append(_constants(run_dir, fold, challenge))
        parts.append(constants[-1].apply(logits))
        raws.append(logits)
        epochs.add(meta.get("epoch"))
    frame, raw = (pd.concat(frames).loc[folds.frame.index] for frames in (parts, raws))
    raw = raw if challenge.task == "multi_label" else None
    return Scores(frame, mean_constants(constants), raw, optimistic="best" in epochs)


def read_split(challenge: Challenge, workspace: Workspace, name: str, split: str) -> Scores:
    """Scores of a model or an ensemble for dev or test: standardised fold by fold, then averaged.

    A refit has one set of logits and no out-of-fold ones: they are standardised with their own constants.
    Raises UserError as `read_oof`, and if folds or members hold different ids.
    """
    run_dir, folds = workspace.run_dir(challenge.name, name), read_folds(challenge, workspace)
    if is_ensemble(run_dir):
        weights = _weights(run_dir, challenge, folds)
        members = [read_split(challenge, workspace, member, split) for member in weights.used]
        return _averaged(members, weights, name)
    if (run_dir / REFIT).is_dir():
        logits, _ = _read_fold(run_dir, REFIT, split, challenge, folds)
        constants = constants_of(logits, challenge.task)
        return Scores(constants.apply(logits), constants)
    units = range(folds.n_folds)
    constants = [_constants(run_dir, fold, challenge) for fold in units]
    frames = [
        part.apply(_read_fold(run_dir, fold, split, challenge, folds)[0])
        for fold, part in zip(units, constants, strict=True)
    ]
    fix = f"cxrlt predict {name} --challenge {challenge.name} --split {split} --force"
    mean = weighted_mean(
        frames, [1 / len(frames)] * len(frames), f"the {split} predictions of {name}'s folds", fix
    )
    return Scores(mean, mean_constants(constants))


def uses_study_mean(
    challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows | None = None
) -> bool:
    """Whether scores are averaged over studies: an ensemble's weights.json says so, or a model's recipe.

    Where the recipe leaves it open the out-of-fold score decides; a refit has none and is not averaged.
    """
    run_dir = workspace.run_dir(challenge.name, name)
    if is_ensemble(run_dir):
        return read_weights(run_dir, challenge).study_mean
    refit = (run_dir / REFIT).is_dir()
    option = load_recipe(None, run_dir / (REFIT if refit else "fold0") / "config.yaml").predict.study_mean
    if option != "auto" or refit:
        return option == "on"
    rows = rows or read_train_rows(challenge, workspace)
    return study_mean_helps(challenge, read_oof(challenge, workspace, name).frame, rows.table, rows.fold)


@dataclass(frozen=True)
class Final:
    """What is scored and submitted: logits (index image_id, a column per class; NaN = not predicted).

    They are means over folds, over members and, if `study_mean`, over studies. `raw` are the pooled
    out-of-fold logits of a multi-label model without standardisation. `optimistic`: the rows chose the epoch
    they are scored on.
    """

    name: str
    logits: pd.DataFrame
    study_mean: bool
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

    An out-of-fold row is computed with what was fitted without its fold. `without` (of "oof" only) computes
    every row with what was fitted without that fold: what comes after may be fitted on the other folds' rows.
    """
    read = read_oof if split == "oof" else partial(read_split, split=split)
    scores = read(challenge, workspace, name)
    average = uses_study_mean(challenge, workspace, name, rows)
    frame, raw = scores.frame, scores.raw
    if average:
        table = challenge.read("train" if split == "oof" else split, workspace.inputs_dir(challenge.name))
        frame, raw = study_mean(frame, table), None if raw is None else study_mean(raw, table)
    return Final(name, scores.constants.invert(frame), average, raw, scores.optimistic)


def weighted_mean(
    frames: Sequence[pd.DataFrame], weights: Sequence[float], what: str, made_by: str
) -> pd.DataFrame:
    """Sum of weight x frame, joined by id. Raises UserError if the ids differ."""
    total = frames[0] * weights[0]
    for frame, weight in zip(frames[1:], weights[1:], strict=True):
        odd = frame.index.symmetric_difference(total.index)
        if len(odd):
            raise UserError(f"{what} do not hold the same ids: {listing(odd)}. Predict again with: {made_by}")
        total = total + weight * frame.loc[total.index]
    return total


def _averaged(members: Sequence[Scores], weights: EnsembleWeights, name: str) -> Scores:
    frame = weighted_mean(
        [member.frame for member in members],
        list(weights.used.values()),
        f"the predictions of {name}'s members",
        "cxrlt predict MEMBER --force",
    )
    return Scores(frame, weights.constants, optimistic=any(member.optimistic for member in members))


def _weights(run_dir: Path, challenge: Challenge, folds: Folds) -> EnsembleWeights:
    weights = read_weights(run_dir, challenge)
    if weights.folds_sha256 != folds.sha256:
        members, name = " ".join(weights.members), name_of_run(run_dir, challenge.name)
        raise UserError(
            f"{name} was made on another split than the folds.csv there is now. Make it again with: "
            f"cxrlt ensemble {name} --members {members} --challenge {challenge.name} --force"
        )
    return weights


def _constants(run_dir: Path, fold: int, challenge: Challenge) -> Constants:
    name = name_of_run(run_dir, challenge.name)
    again = f"cxrlt predict {name} --challenge {challenge.name} --split oof --force"
    return read_constants(run_dir / f"fold{fold}", challenge.classes, again)


def _read_fold(
    run_dir: Path, fold: int | str, split: str, challenge: Challenge, folds: Folds
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One fold's comparable logits, and metadata. Raises UserError if missing or of another split."""
    directory = run_dir / (REFIT if fold == REFIT else f"fold{fold}")
    path = directory / f"{split}.parquet"
    if not (directory / WEIGHTS).is_file() and not path.is_file():
        raise UserError(
            f"{directory} is not trained. Train it with: {train_command(run_dir, fold, challenge.name)}"
        )
    if not path.is_file():
        name = name_of_run(run_dir, challenge.name)
        command = f"cxrlt predict {name} --challenge {challenge.name} --split {split}"
        raise UserError(f"{path} does not exist. Make it with: {command}")
    logits, meta = read_predictions(path, challenge.classes)
    if meta.get("folds_sha256") != folds.sha256:
        again = train_command(run_dir, fold, challenge.name)
        raise UserError(
            f"{path} belongs to another folds.csv than the one there is now. Train again: {again} --force"
        )
    return comparable_logits(logits, challenge.task), meta


def train_command(run_dir: Path, fold: int | str, challenge: str) -> str:
    """The command that trains one fold of a run."""
    which = "--refit" if fold == REFIT else f"--fold {fold}"
    return f"{train_run_command(run_dir, challenge)} {which}"


def train_run_command(run_dir: Path, challenge: str) -> str:
    """The command that trains a run; its recipe is known only where the run is called after it."""
    name = name_of_run(run_dir, challenge)
    run = name if name in recipe_names() else f"RECIPE --name {name}"
    return f"cxrlt train {run} --challenge {challenge}"


def _require_ids(path: Path, ids: pd.Index, folds: Folds, fold: int, challenge: str) -> None:
    expected = folds.frame.index[folds.frame["fold"] == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    name = name_of_run(path.parent.parent, challenge)
    again = f"Make it again with: cxrlt predict {name} --challenge {challenge} --split oof --force"
    if len(foreign):
        raise UserError(f"{path} holds rows that are not of fold {fold}: {listing(foreign)}. {again}")
    if len(missing):
        raise UserError(f"{path} lacks rows of fold {fold}: {listing(missing)}. {again}")
