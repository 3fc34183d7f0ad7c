"""Predictions on disk: logits that always travel with their ids and with what they were made of.

Every reader of a fold's predictions compares them with what there is now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.artifacts import forced, make_again, name_of_run
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
from cxrlt.provenance import MadeOf, OutdatedError, digest, in_words
from cxrlt.system.atomic_files import atomic_path
from cxrlt.training.run_paths import WEIGHTS, fold_of, train_fold_command, unit_dir

META_KEY = b"cxrlt"
MADE_BY = "cxrlt predict NAME"
PIXELS = "pixels"
"""The column with the first 64 bits of the SHA-256 of each image's file; blank where they are not known."""


class PredictionsMeta(BaseModel):
    """What a predictions file says of itself; `values` is the digest of its logits.

    Of an ensemble `fold` is "all" and `seed` is blank. `epoch` says which weights: "last" or "best".
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
    made_of: MadeOf = {}
    values: str = ""


def write_predictions(
    path: Path, logits: pd.DataFrame, meta: PredictionsMeta, pixels: pd.Series | None = None
) -> None:
    """Write float32 logits (index image_id, one column per class), with `meta` in the parquet schema.

    `pixels` has the `pixel_numbers` of all rows by id. Raises ValueError for an id that occurs twice.
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


def read_meta(path: Path, made_by: str = MADE_BY) -> PredictionsMeta:
    """What the predictions in `path` say of themselves. Raises UserError if the file cannot be read."""
    try:
        found = pq.read_schema(path).metadata or {}
        return PredictionsMeta.model_validate_json(found.get(META_KEY, b"{}"))
    except (OSError, pa.ArrowException, ValidationError) as error:
        raise _unusable(path, f"is not a predictions file ({_first_line(error)})", made_by) from error


@dataclass(frozen=True, eq=False)
class PredictionsFile:
    """A predictions file: what it says of itself, its ids, and the `pixel_numbers` by id if they were known.

    The command `made_by` writes it again.
    """

    path: Path
    made_by: str
    meta: PredictionsMeta
    ids: pd.Index
    pixels: pd.Series | None

    def logits(self, classes: Sequence[str]) -> pd.DataFrame:
        """Its logits (index image_id, float32, columns in the order of `classes`), as `read_predictions`."""
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
            raise self._unusable(f"holds ids more than once, or blank ones: {listing(twice)}")
        blank = frame.isna()
        broken = frame.index[np.isinf(frame).any(axis=1) | (blank.any(axis=1) & ~blank.all(axis=1))]
        if len(broken):
            raise self._unusable(
                f"holds rows with infinite logits, or with logits for some classes only: {listing(broken)}"
            )
        if self.meta.values and self.meta.values != digest(frame):
            raise self._unusable("is damaged: it holds other logits than were written")
        return frame

    def _unusable(self, wrong: str) -> UserError:
        return _unusable(self.path, wrong, self.made_by)


def open_predictions(path: Path, made_by: str = MADE_BY) -> PredictionsFile:
    """What the file at `path` holds beside its logits. Raises UserError if it cannot be read."""
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
    path: Path, classes: Sequence[str], made_by: str = MADE_BY
) -> tuple[pd.DataFrame, PredictionsMeta]:
    """The logits in `path` (index image_id, float32, columns in the order of `classes`) and what it says.

    An image that could not be read is NaN in every class. Raises UserError naming the command `made_by` if
    the file cannot be read, holds something else than logits of these classes by id, an id twice, a logit
    that is not a number, or other logits than were written.
    """
    file = open_predictions(path, made_by)
    return file.logits(classes), file.meta


def _unusable(path: Path, wrong: str, made_by: str) -> UserError:
    return UserError(f"{path} {wrong}. {make_again(forced(made_by))}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _wrong_columns(schema: pa.Schema, classes: Sequence[str] | None) -> str | None:
    """What is wrong with the columns; None: nothing. `classes` None: of any classes."""
    names = schema.names
    wanted = ("image_id", *(set(names) - {PIXELS} if classes is None else classes))
    missing = [name for name in wanted if name not in names]
    unknown = [name for name in names if name not in (*wanted, PIXELS)]
    if missing or unknown:
        return (
            "does not hold the classes of this challenge "
            f"(missing: {listing(missing) or 'none'}; unknown: {listing(unknown) or 'none'})"
        )
    is_kind = {"image_id": lambda kind: kind in (pa.string(), pa.large_string()), PIXELS: pa.types.is_uint64}
    wrong = [each.name for each in schema if not is_kind.get(each.name, pa.types.is_floating)(each.type)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if wrong or twice:
        return f"does not hold ids as text and one column of logits per class: {listing(wrong or twice)}"
    return None


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
        command = train_fold_command(run_dir, fold, challenge.name)
        raise UserError(f"{directory} is not trained. Train it with: {command}")
    name = name_of_run(run_dir, challenge.name)
    command = predict_command(name, challenge.name, split)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with: {command}")
    oof = None if fold == REFIT else _open_current_oof(directory, name, present)
    file = oof if split == "oof" else open_predictions(path, command)
    logits = _current_logits(file, present)
    if split == "oof":
        _require_rows_of_fold(path, logits.index, present, int(fold), command)
    logits = comparable_logits(logits, challenge.task)
    if fold == REFIT:
        return FoldLogits(logits, constants_of(logits, challenge.task), file.meta)
    return FoldLogits(logits, _read_current_constants(directory, name, oof, present), file.meta)


def read_current(path: Path, present: Present, made_by: str) -> tuple[pd.DataFrame, PredictionsMeta]:
    """The logits in a fold's folder and what the file says: every reader of predictions goes through here.

    Rows that the table has lost are left out. Raises OutdatedError if it was made of something else than
    there is now, UserError if it is damaged, both with the command that renews it: `made_by`, or training.
    """
    file = open_predictions(path, made_by)
    return _current_logits(file, present), file.meta


def _current_logits(file: PredictionsFile, present: Present) -> pd.DataFrame:
    present.require_current(file)  # first: other classes are no damage
    there = present.still_there(file.ids, file.meta.split)
    logits = file.logits(present.challenge.classes)
    return logits if there.all() else logits[there]


def require_current_oof(name: str, present: Present) -> None:
    """Raises OutdatedError if a model's out-of-fold predictions were made of something else than there is."""
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    for fold in present.folds.held:
        _open_current_oof(unit_dir(run_dir, fold), name, present)


def _open_current_oof(directory: Path, name: str, present: Present) -> PredictionsFile | None:
    """A fold's out-of-fold predictions; None if there are none. Raises OutdatedError if they are outdated."""
    path = directory / "oof.parquet"
    if not path.is_file():
        return None
    file = open_predictions(path, predict_command(name, present.challenge.name, "oof"))
    present.require_current(file)
    return file


def _read_current_constants(
    directory: Path, name: str, oof: PredictionsFile | None, present: Present
) -> Constants:
    """Raises UserError if a fold's constants are missing or damaged, or not those of its logits `oof`."""
    made_by = predict_command(name, present.challenge.name, "oof")
    constants, made_of = read_constants(directory, present.challenge.classes, made_by)
    now = present.made_of_predictions(directory)
    if oof is not None:
        now["predictions"] = oof.meta.values
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
