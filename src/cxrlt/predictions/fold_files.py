"""The files of a run's folds, checked as they are read: predictions, and the constants beside them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import name_of_run
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import (
    CONSTANTS,
    Constants,
    comparable_logits,
    constants_of,
    read_constants,
)
from cxrlt.predictions.store import PredictionsMeta, open_predictions
from cxrlt.provenance import OutdatedError, in_words
from cxrlt.training.run_paths import WEIGHTS, fold_of, train_command, unit_dir


@dataclass(frozen=True)
class FoldLogits:
    """A fold's comparable logits of the rows there are now, what they are standardised with, their file."""

    logits: pd.DataFrame
    constants: Constants
    meta: PredictionsMeta


def read_fold(run_dir: Path, fold: int | str, split: str, present: Present) -> FoldLogits:
    """One fold's predictions; a refit's are standardised with their own constants, as it has no other rows.

    Raises UserError if they are missing, outdated or damaged, and if out-of-fold rows are not the fold's.
    """
    challenge, directory = present.challenge, unit_dir(run_dir, fold)
    path, constants_path = directory / f"{split}.parquet", directory / CONSTANTS
    needed = [path] if fold == REFIT else [path, constants_path]
    if not (directory / WEIGHTS).is_file() and not all(file.is_file() for file in needed):
        command = train_command(run_dir, fold, challenge.name)
        raise UserError(f"{directory} is not trained. Train it with: {command}")
    name = name_of_run(run_dir, challenge.name)
    command = predict_command(name, challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with: {command}")
    constants = None if fold == REFIT else _read_current_constants(directory, name, present)
    logits, meta = read_current(path, present, command)
    if split == "oof":
        _require_rows_of_fold(path, logits.index, present, int(fold), command)
    logits = comparable_logits(logits, challenge.task)
    return FoldLogits(logits, constants or constants_of(logits, challenge.task), meta)


def read_current(path: Path, present: Present, made_by: str) -> tuple[pd.DataFrame, PredictionsMeta]:
    """The logits in a fold's folder and what the file says: every reader of predictions goes through here.

    Rows that the table has lost are left out. Raises OutdatedError if it was made of something else than
    there is now, UserError if it is damaged, both with the command that renews it: `made_by`, or training.
    """
    file = open_predictions(path, made_by)
    present.require_current(file)  # first: other classes are no damage
    there = present.still_there(file.ids, file.meta.split)
    logits = file.logits(present.challenge.classes)
    return logits if there.all() else logits[there], file.meta


def require_current_oof(name: str, present: Present) -> None:
    """Raises OutdatedError if a model's out-of-fold predictions were made of something else than there is."""
    challenge = present.challenge.name
    for fold in present.folds.held:
        path = unit_dir(present.workspace.run_dir(challenge, name), fold) / "oof.parquet"
        if path.is_file():
            present.require_current(open_predictions(path, predict_command(name, challenge, "oof")))


def _read_current_constants(directory: Path, name: str, present: Present) -> Constants:
    """Raises UserError if a fold's constants are missing or damaged, or they or their logits are outdated."""
    oof, challenge = directory / "oof.parquet", present.challenge
    made_by = predict_command(name, challenge.name, "oof")
    constants, made_of = read_constants(directory, challenge.classes, made_by)
    now = present.made_of_predictions(directory)
    if oof.is_file():
        file = open_predictions(oof, made_by)
        present.require_current(file)
        now["predictions"] = file.meta.values
    if found := present.differing(made_of, now, fold_of(directory)):
        raise OutdatedError(
            f"{directory / CONSTANTS} is outdated: it was made with {in_words(found)}. "
            f"Renew it with: {made_by} --force"
        )
    return constants


def predict_command(name: str, challenge: str, split: str) -> str:
    """The command that predicts a split, and again what is outdated."""
    return f"cxrlt predict {name} --challenge {challenge} --split {split}"


def _require_rows_of_fold(path: Path, ids: pd.Index, present: Present, fold: int, command: str) -> None:
    """Raises UserError unless the out-of-fold ids are those of the fold that the table still has."""
    fold_rows = present.rows.fold
    expected = fold_rows.index[fold_rows == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    if len(foreign):
        raise UserError(
            f"{path} holds rows that are not of fold {fold}: {listing(foreign)}. Make it again with: "
            f"{command} --force"
        )
    if len(missing):
        raise UserError(
            f"{path} lacks {len(missing):,} rows of fold {fold}: {listing(missing)}. Predict them with: "
            f"{command}"
        )
