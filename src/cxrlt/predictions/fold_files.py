"""The files of a run's folds: its predictions and the constants beside them, checked as they are read."""

from pathlib import Path

import pandas as pd

from cxrlt.artifacts import name_of_run
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.make import Folds
from cxrlt.predictions.probabilities import comparable_logits
from cxrlt.predictions.standardise import Constants, read_constants
from cxrlt.predictions.store import read_predictions
from cxrlt.training.places import REFIT, WEIGHTS, train_command


def read_fold(
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


def constants_of_fold(run_dir: Path, fold: int, challenge: Challenge) -> Constants:
    """What a fold's logits are standardised with. Raises UserError if it is missing or of other classes."""
    name = name_of_run(run_dir, challenge.name)
    again = f"cxrlt predict {name} --challenge {challenge.name} --split oof --force"
    return read_constants(run_dir / f"fold{fold}", challenge.classes, again)


def require_ids(path: Path, ids: pd.Index, folds: Folds, fold: int, challenge: str) -> None:
    """Raises UserError unless the out-of-fold ids are those of the fold."""
    expected = folds.frame.index[folds.frame["fold"] == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    name = name_of_run(path.parent.parent, challenge)
    again = f"Make it again with: cxrlt predict {name} --challenge {challenge} --split oof --force"
    if len(foreign):
        raise UserError(f"{path} holds rows that are not of fold {fold}: {listing(foreign)}. {again}")
    if len(missing):
        raise UserError(f"{path} lacks rows of fold {fold}: {listing(missing)}. {again}")
