"""The files of a run's folds, checked as they are read: predictions, and the constants beside them."""

from pathlib import Path

import pandas as pd

from cxrlt.artifacts import name_of_run
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import CONSTANTS, Constants, comparable_logits, read_constants
from cxrlt.predictions.store import PredictionsFile, PredictionsMeta, open_predictions
from cxrlt.provenance import OutdatedError, in_words
from cxrlt.training.run_paths import WEIGHTS, fold_of, train_command, unit_dir


def read_fold(
    run_dir: Path, fold: int | str, split: str, present: Present
) -> tuple[pd.DataFrame, PredictionsMeta]:
    """One fold's comparable logits of the rows there are now, and what the file says of itself.

    Raises UserError if it is missing, outdated or damaged, and if out-of-fold rows are not those of the fold.
    """
    challenge = present.challenge
    path = unit_dir(run_dir, fold) / f"{split}.parquet"
    _require_trained(path, challenge.name)
    command = predict_command(name_of_run(run_dir, challenge.name), challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with: {command}")
    logits, meta = read_current(path, present, command)
    if split == "oof":
        _require_rows_of_fold(path, logits.index, present, int(fold), command)
    return comparable_logits(logits, challenge.task), meta


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
        _open_oof(unit_dir(present.workspace.run_dir(challenge, name), fold), name, present)


def constants_of_fold(run_dir: Path, fold: int, present: Present) -> Constants:
    """What a fold's logits are standardised with. Raises UserError if missing, outdated or damaged."""
    challenge, directory = present.challenge, unit_dir(run_dir, fold)
    path, name = directory / CONSTANTS, name_of_run(run_dir, challenge.name)
    _require_trained(path, challenge.name)
    made_by = predict_command(name, challenge.name, "oof")
    constants, made_of = read_constants(directory, challenge.classes, made_by)
    now = present.made_of_predictions(directory)
    if oof := _open_oof(directory, name, present):
        now["predictions"] = oof.meta.values
    if found := present.differing(made_of, now, fold_of(directory)):
        raise OutdatedError(
            f"{path} is outdated: it was made with {in_words(found)}. Renew it with: {made_by} --force"
        )
    return constants


def predict_command(name: str, challenge: str, split: str) -> str:
    """The command that predicts a split, and again what is outdated."""
    return f"cxrlt predict {name} --challenge {challenge} --split {split}"


def _open_oof(directory: Path, name: str, present: Present) -> PredictionsFile | None:
    """A fold's out-of-fold predictions, None if there are none. Raises OutdatedError if they are outdated."""
    path = directory / "oof.parquet"
    if not path.is_file():
        return None
    file = open_predictions(path, predict_command(name, present.challenge.name, "oof"))
    present.require_current(file)
    return file


def _require_trained(path: Path, challenge: str) -> None:
    """Raises UserError if neither `path` exists nor the weights beside it."""
    directory = path.parent
    if not (directory / WEIGHTS).is_file() and not path.is_file():
        command = train_command(directory.parent, fold_of(directory), challenge)
        raise UserError(f"{directory} is not trained. Train it with: {command}")


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
