"""Predictions files: logits with their image ids and their provenance.

Every reader of a fold's predictions checks that they match the current data, weights and recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.artifacts import renew_message, run_name_from_dir, with_force
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.standardise import (
    CONSTANTS,
    Constants,
    comparable_logits,
    fit_constants,
    read_constants,
)
from cxrlt.provenance import OutdatedError, Provenance, describe_differences, digest
from cxrlt.system.atomic_files import atomic_path
from cxrlt.training.run_paths import WEIGHTS, fold_dir, fold_from_dir, train_fold_command

META_KEY = b"cxrlt"
PREDICT_COMMAND = "cxrlt predict NAME"
PIXELS = "pixels"
"""The column with the first 64 bits of the SHA-256 of each image file; blank if unknown."""


class PredictionsMeta(BaseModel):
    """The metadata in the schema of a predictions file; `values` is the digest of its logits.

    An ensemble has `fold` "all" and a blank `seed`. `epoch` is predict.weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    challenge: str = ""
    name: str = ""
    fold: str = ""
    seed: str = ""
    split: str = ""
    tta: str = ""
    epoch: str = ""
    study_mean: str = ""
    version: str = ""
    provenance: Provenance = {}
    values: str = ""


def write_predictions(
    path: Path, logits: pd.DataFrame, meta: PredictionsMeta, pixels: pd.Series | None = None
) -> None:
    """Write float32 logits (index image_id, one column per class) with `meta` in the parquet schema.

    `pixels` are the `pixel_fingerprints`, by id. Raises ValueError for a duplicate id.
    """
    if not logits.index.is_unique:
        raise ValueError(f"ids predicted twice: {listing(logits.index[logits.index.duplicated()].unique())}")
    logits = logits.astype(np.float32)
    columns = {"image_id": pa.array(logits.index.astype(str), pa.string())}
    columns |= {name: pa.array(logits[name].to_numpy()) for name in logits.columns}
    if pixels is not None:
        columns[PIXELS] = pa.array(pixels.reindex(logits.index).astype("UInt64"), pa.uint64())
    described = meta.model_copy(update={"values": digest(logits)}).model_dump_json()
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata({META_KEY: described}), temporary)


def read_meta(path: Path, made_by: str = PREDICT_COMMAND) -> PredictionsMeta:
    """Return the metadata of a predictions file. Raises UserError if the file cannot be read."""
    try:
        found = pq.read_schema(path).metadata or {}
        return PredictionsMeta.model_validate_json(found.get(META_KEY, b"{}"))
    except (OSError, pa.ArrowException, ValidationError) as error:
        raise _unusable(path, f"is not a predictions file ({_first_line(error)})", made_by) from error


@dataclass(frozen=True, eq=False)
class PredictionsFile:
    """An open predictions file: its metadata, its ids, and its `pixel_fingerprints` by id, if it has any.

    The command `made_by` writes the file.
    """

    path: Path
    made_by: str
    meta: PredictionsMeta
    ids: pd.Index
    pixels: pd.Series | None

    def logits(self, classes: Sequence[str]) -> pd.DataFrame:
        """Return the logits (index image_id, one float32 column per class, in the order of `classes`).

        Raises UserError as `read_predictions` does.
        """
        try:
            with pq.ParquetFile(self.path) as file:
                if wrong := _wrong_columns(file.schema_arrow, classes):
                    raise self._unusable(wrong)
                values = file.read([*classes]).to_pandas(ignore_metadata=True)
        except (OSError, pa.ArrowException) as error:
            raise self._unusable(f"is not a predictions file ({_first_line(error)})") from error
        frame = values[list(classes)].astype(np.float32).set_axis(self.ids)
        twice = frame.index[frame.index.duplicated() | frame.index.isna()].unique()
        if len(twice):
            raise self._unusable(f"has duplicate or blank ids: {listing(twice)}")
        blank = frame.isna()
        broken = frame.index[np.isinf(frame).any(axis=1) | (blank.any(axis=1) & ~blank.all(axis=1))]
        if len(broken):
            raise self._unusable(
                f"has rows with infinite logits, or with logits for some classes only: {listing(broken)}"
            )
        if self.meta.values and self.meta.values != digest(frame):
            raise self._unusable("is damaged: its logits are not the ones that were written")
        return frame

    def _unusable(self, wrong: str) -> UserError:
        return _unusable(self.path, wrong, self.made_by)


def open_predictions(path: Path, made_by: str = PREDICT_COMMAND) -> PredictionsFile:
    """Read everything of a predictions file except its logits. Raises UserError if it cannot be read."""
    meta = read_meta(path, made_by)
    try:
        with pq.ParquetFile(path) as file:
            if wrong := _wrong_columns(file.schema_arrow, None):
                raise _unusable(path, wrong, made_by)
            names = [name for name in ("image_id", PIXELS) if name in file.schema_arrow.names]
            frame = file.read(names).to_pandas(
                ignore_metadata=True, types_mapper={pa.uint64(): pd.UInt64Dtype()}.get
            )
    except (OSError, pa.ArrowException) as error:
        raise _unusable(path, f"is not a predictions file ({_first_line(error)})", made_by) from error
    ids = pd.Index(frame["image_id"], name="image_id")
    pixels = pd.Series(frame[PIXELS].to_numpy(), ids, dtype="UInt64") if PIXELS in frame else None
    return PredictionsFile(path, made_by, meta, ids, pixels)


def read_predictions(
    path: Path, classes: Sequence[str], made_by: str = PREDICT_COMMAND
) -> tuple[pd.DataFrame, PredictionsMeta]:
    """Return the logits in `path` and the file's metadata.

    Logits have the index image_id and one float32 column per class, in the order of `classes`. An unreadable
    image is NaN in every class. Raises UserError with the command `made_by` if the file cannot be read, lacks
    a class or has unknown columns, or has duplicate ids, infinite logits or other logits than were written.
    """
    file = open_predictions(path, made_by)
    return file.logits(classes), file.meta


def _unusable(path: Path, wrong: str, made_by: str) -> UserError:
    return UserError(f"{path} {wrong}. {renew_message(with_force(made_by))}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _wrong_columns(schema: pa.Schema, classes: Sequence[str] | None) -> str | None:
    """Return what is wrong with the columns, or None. `classes` None accepts any class names."""
    names = schema.names
    wanted = ("image_id", *(set(names) - {PIXELS} if classes is None else classes))
    missing = [name for name in wanted if name not in names]
    unknown = [name for name in names if name not in (*wanted, PIXELS)]
    if missing or unknown:
        return (
            "does not have the classes of this challenge "
            f"(missing: {listing(missing) or 'none'}; unknown: {listing(unknown) or 'none'})"
        )
    is_kind = {"image_id": lambda kind: kind in (pa.string(), pa.large_string()), PIXELS: pa.types.is_uint64}
    wrong = [each.name for each in schema if not is_kind.get(each.name, pa.types.is_floating)(each.type)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if wrong or twice:
        return f"needs text ids and one column of float logits per class. Wrong: {listing(wrong or twice)}"
    return None


@dataclass(frozen=True)
class FoldLogits:
    """A fold's comparable logits of the current rows, its constants and the metadata of its file."""

    logits: pd.DataFrame
    constants: Constants
    meta: PredictionsMeta


def read_fold(run_dir: Path, fold: int | str, split: str, current: CurrentData) -> FoldLogits:
    """Return one fold's predictions of `split`, with the fold's constants.

    A refit has no out-of-fold rows: its predictions are standardised with their own constants. Raises
    UserError if files are missing, outdated or damaged, or if out-of-fold rows belong to another fold.
    """
    challenge, directory = current.challenge, fold_dir(run_dir, fold)
    path, constants_path = directory / f"{split}.parquet", directory / CONSTANTS
    needed = [path] if fold == REFIT else [path, constants_path]
    if not (directory / WEIGHTS).is_file() and not all(file.is_file() for file in needed):
        command = train_fold_command(run_dir, fold, challenge.name)
        raise UserError(f"{directory} is not trained. Train it with: {command}")
    name = run_name_from_dir(run_dir, challenge.name)
    command = predict_command(name, challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Create it with: {command}")
    oof = None if fold == REFIT else _open_current_oof(directory, name, current)
    file = oof if split == "oof" and oof is not None else open_predictions(path, command)
    logits = _current_logits(file, current)
    if split == "oof":
        _require_rows_of_fold(path, logits.index, current, int(fold), command)
    logits = comparable_logits(logits, challenge.task)
    if fold == REFIT:
        return FoldLogits(logits, fit_constants(logits, challenge.task), file.meta)
    return FoldLogits(logits, _read_current_constants(directory, name, oof, current), file.meta)


def read_current(path: Path, current: CurrentData, made_by: str) -> tuple[pd.DataFrame, PredictionsMeta]:
    """Return the logits and the metadata of a fold's predictions file, once they are known to be current.

    Logits have the index image_id and one float32 column per class; rows that the table no longer has are
    dropped. Raises OutdatedError if the file does not match the current data, weights and recipe, UserError
    if it is damaged. Both name the command that renews it: `made_by`, or training.
    """
    file = open_predictions(path, made_by)
    return _current_logits(file, current), file.meta


def _current_logits(file: PredictionsFile, current: CurrentData) -> pd.DataFrame:
    current.require_current(file)  # before reading: a file with other classes is outdated, not damaged
    there = current.in_table(file.ids, file.meta.split)
    logits = file.logits(current.challenge.classes)
    return logits if there.all() else logits[there]


def require_current_oof(name: str, current: CurrentData) -> None:
    """Raise OutdatedError if a model's out-of-fold predictions do not match the current data or weights."""
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    for fold in current.folds.fold_numbers:
        _open_current_oof(fold_dir(run_dir, fold), name, current)


def _open_current_oof(directory: Path, name: str, current: CurrentData) -> PredictionsFile | None:
    """Open a fold's out-of-fold predictions, or return None if the file does not exist."""
    path = directory / "oof.parquet"
    if not path.is_file():
        return None
    file = open_predictions(path, predict_command(name, current.challenge.name, "oof"))
    current.require_current(file)
    return file


def _read_current_constants(
    directory: Path, name: str, oof: PredictionsFile | None, current: CurrentData
) -> Constants:
    """Raise UserError if a fold's constants are missing or damaged, or do not belong to its logits `oof`."""
    made_by = predict_command(name, current.challenge.name, "oof")
    constants, provenance = read_constants(directory, current.challenge.classes, made_by)
    now = current.predictions_provenance(directory)
    if oof is not None:
        now["predictions"] = oof.meta.values
    if found := current.find_differences(provenance, now, fold_from_dir(directory)):
        raise OutdatedError(
            f"{directory / CONSTANTS} is outdated: it was made with {describe_differences(found)}. "
            f"Renew it with: {made_by} --force"
        )
    return constants


def predict_command(name: str, challenge: str, split: str) -> str:
    """Return the command that predicts a split, including what is outdated."""
    return f"cxrlt predict {name} --challenge {challenge} --split {split}"


def _require_rows_of_fold(path: Path, ids: pd.Index, current: CurrentData, fold: int, command: str) -> None:
    """Raise UserError unless the out-of-fold ids are exactly the fold's rows in the current table."""
    fold_rows = current.rows.fold
    expected = fold_rows.index[fold_rows == fold]
    missing, foreign = expected.difference(ids, sort=False), ids.difference(expected, sort=False)
    if len(foreign):
        raise UserError(
            f"{path} has rows that are not in fold {fold}: {listing(foreign)}. Renew it with: "
            f"{command} --force"
        )
    if len(missing):
        raise UserError(
            f"{path} lacks {len(missing):,} rows of fold {fold}: {listing(missing)}. Predict them with: "
            f"{command}"
        )
