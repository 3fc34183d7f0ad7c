"""The files of a run's folds: its predictions and the constants beside them, checked as they are read."""

from pathlib import Path

import pandas as pd

from cxrlt.artifacts import name_of_run
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import CONSTANTS, Constants, comparable_logits, read_constants
from cxrlt.predictions.store import PredictionsMeta, read_meta, read_predictions
from cxrlt.provenance import OutdatedError, in_words
from cxrlt.training.run_paths import WEIGHTS, fold_of, train_fold_command, unit_dir


def read_fold(
    run_dir: Path, fold: int | str, split: str, present: Present
) -> tuple[pd.DataFrame, PredictionsMeta]:
    """One fold's comparable logits of the rows there are now, and what the file says of itself.

    Raises UserError if it is missing, outdated or damaged.
    """
    directory, challenge = unit_dir(run_dir, fold), present.challenge
    path = directory / f"{split}.parquet"
    _require_trained(path, challenge.name)
    command = predict_command(name_of_run(run_dir, challenge.name), challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with: {command}")
    logits, meta = read_current(path, present, command)
    return comparable_logits(logits, challenge.task), meta


def _require_trained(path: Path, challenge: str) -> None:
    """Raises UserError if `path` is not there and the weights beside it are not either."""
    directory = path.parent
    if not (directory / WEIGHTS).is_file() and not path.is_file():
        command = train_fold_command(directory.parent, fold_of(directory), challenge)
        raise UserError(f"{directory} is not trained. Train it with: {command}")


def read_current(path: Path, present: Present, made_by: str) -> tuple[pd.DataFrame, PredictionsMeta]:
    """The logits in a fold's folder and what the file says: every reader of predictions goes through here.

    Rows that the table has lost are left out. Raises OutdatedError if it was made of something else than
    there is now, UserError if it is damaged, both with the command that renews it: `made_by`, or training.
    """
    meta = read_meta(path, made_by)
    present.require_current(path, meta, made_by)  # first: other classes are no damage
    logits, meta = read_predictions(path, present.challenge.classes, made_by)
    there = present.still_there(logits.index, meta.split)
    return logits if there.all() else logits[there], meta


def require_current_oof(name: str, present: Present) -> None:
    """Raises OutdatedError if a model's out-of-fold predictions were made of something else than there is."""
    challenge = present.challenge.name
    command = predict_command(name, challenge, "oof")
    for fold in present.folds.held:
        path = unit_dir(present.workspace.run_dir(challenge, name), fold) / "oof.parquet"
        if path.is_file():
            present.require_current(path, read_meta(path, command), command)


def constants_of_fold(run_dir: Path, fold: int, present: Present) -> Constants:
    """What a fold's logits are standardised with. Raises UserError if missing, outdated or damaged."""
    directory, name = unit_dir(run_dir, fold), present.challenge.name
    made_by = predict_command(name_of_run(run_dir, name), name, "oof")
    _require_trained(directory / CONSTANTS, name)
    constants, made_of = read_constants(directory, present.challenge.classes, made_by)
    oof = directory / "oof.parquet"
    now = present.made_of_predictions(directory)
    if oof.is_file():
        meta = read_meta(oof, made_by)
        present.require_current(oof, meta, made_by)
        now["predictions"] = meta.values
    if found := present.differing(made_of, now, fold_of(directory)):
        raise OutdatedError(
            f"{directory / CONSTANTS} is outdated: it was made with {in_words(found)}. "
            f"Renew it with: {made_by} --force"
        )
    return constants


def predict_command(name: str, challenge: str, split: str) -> str:
    """The command that predicts a split, and again what is outdated."""
    return f"cxrlt predict {name} --challenge {challenge} --split {split}"


def require_ids(path: Path, ids: pd.Index, present: Present, fold: int) -> None:
    """Raises UserError unless the out-of-fold ids are those of the fold that the table still has."""
    fold_rows = present.rows.fold
    expected = fold_rows.index[fold_rows == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    challenge = present.challenge.name
    command = predict_command(name_of_run(path.parent.parent, challenge), challenge, "oof")
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
