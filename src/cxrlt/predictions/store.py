"""Predictions on disk: logits that always travel with their ids and with what they were made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.artifacts import forced, make_again
from cxrlt.errors import UserError, listing
from cxrlt.provenance import MadeOf, digest
from cxrlt.system.atomic_files import atomic_path

META_KEY = b"cxrlt"
MADE_BY = "cxrlt predict NAME"
PIXELS = "pixels"
"""The column with the first 64 bits of the SHA-256 of each image's file; blank where they are not known."""
PIXEL_DIGITS = 16


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


def pixel_numbers(hashes: pd.Series) -> pd.Series:
    """SHA-256 in hexadecimal (NaN: not known) to their first 64 bits, as UInt64."""
    known = hashes.notna().to_numpy()
    digits = "".join(digits[:PIXEL_DIGITS] for digits in hashes[known])
    numbers = np.zeros(len(hashes), np.uint64)
    numbers[known] = np.frombuffer(bytes.fromhex(digits), ">u8")
    return pd.Series(pd.arrays.IntegerArray(numbers, ~known), hashes.index)


def write_predictions(
    path: Path, logits: pd.DataFrame, meta: PredictionsMeta, pixels: pd.Series | None = None
) -> None:
    """Write float32 logits (index image_id, one column per class), with `meta` in the parquet schema.

    `pixels` has the `pixel_numbers` of all rows by id. Raises ValueError if an id stands there twice.
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
    """What is wrong with the columns; None: nothing. `classes` None: whatever the classes are."""
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
