"""The files of a run's folds: its predictions and the constants beside them, checked as they are read."""

from pathlib import Path

import pandas as pd

from cxrlt.artifacts import name_of_run
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds
from cxrlt.predictions.identity import require_current
from cxrlt.predictions.probabilities import comparable_logits
from cxrlt.predictions.standardise import CONSTANTS, Constants, read_constants
from cxrlt.predictions.store import read_meta, read_predictions
from cxrlt.training.places import REFIT, WEIGHTS, train_command


def read_fold(
    run_dir: Path, fold: int | str, split: str, challenge: Challenge, folds: Folds
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One fold's comparable logits, and metadata. Raises UserError if missing, outdated or damaged."""
    directory = run_dir / (REFIT if fold == REFIT else f"fold{fold}")
    path = directory / f"{split}.parquet"
    if not (directory / WEIGHTS).is_file() and not path.is_file():
        raise UserError(
            f"{directory} is not trained. Train it with: {train_command(run_dir, fold, challenge.name)}"
        )
    command = predict_command(name_of_run(run_dir, challenge.name), challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with: {command}")
    logits, meta = read_current(path, challenge, folds, command)
    return comparable_logits(logits, challenge.task), meta


def read_current(
    path: Path, challenge: Challenge, folds: Folds, made_by: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The logits and metadata of a predictions file in a fold's folder: whoever reads one does it here.

    Raises OutdatedError if it was made with other folds, classes, weights or another recipe than are there
    now, UserError if it is damaged, both with the command that renews it: `made_by`, or training.
    """
    meta = read_meta(path, made_by)
    require_current(path, meta, challenge, folds, made_by)  # first: other classes are no damage
    return read_predictions(path, challenge.classes, made_by)


def constants_of_fold(run_dir: Path, fold: int, challenge: Challenge, folds: Folds) -> Constants:
    """What a fold's logits are standardised with. Raises UserError if missing, outdated or damaged."""
    directory = run_dir / f"fold{fold}"
    made_by = predict_command(name_of_run(run_dir, challenge.name), challenge.name, "oof")
    constants, made_of = read_constants(directory, challenge.classes, made_by)
    require_current(directory / CONSTANTS, made_of, challenge, folds, made_by)
    return constants


def predict_command(name: str, challenge: str, split: str) -> str:
    """The command that predicts a split, and again what is outdated."""
    return f"cxrlt predict {name} --challenge {challenge} --split {split}"


def require_ids(path: Path, ids: pd.Index, folds: Folds, fold: int, challenge: str) -> None:
    """Raises UserError unless the out-of-fold ids are those of the fold."""
    expected = folds.frame.index[folds.frame["fold"] == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    command = predict_command(name_of_run(path.parent.parent, challenge), challenge, "oof")
    again = f"Make it again with: {command} --force"
    if len(foreign):
        raise UserError(f"{path} holds rows that are not of fold {fold}: {listing(foreign)}. {again}")
    if len(missing):
        raise UserError(f"{path} lacks rows of fold {fold}: {listing(missing)}. {again}")
