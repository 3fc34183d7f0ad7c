"""Predictions on disk: logits that always travel with their ids and with where they come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrlt.artifacts import atomic_path
from cxrlt.errors import UserError, listing

META_PREFIX = "cxrlt."
MADE_BY = "cxrlt predict NAME"


def write_predictions(path: Path, logits: pd.DataFrame, meta: Mapping[str, str]) -> None:
    """Write float32 logits (index image_id, one column per class) with `meta` in the parquet schema.

    Raises ValueError if an id stands there twice.
    """
    if not logits.index.is_unique:
        raise ValueError(f"ids predicted twice: {listing(logits.index[logits.index.duplicated()].unique())}")
    columns = {"image_id": pa.array(logits.index.astype(str), pa.string())}
    columns |= {name: pa.array(logits[name].to_numpy(np.float32)) for name in logits.columns}
    schema_meta = {META_PREFIX + key: str(value) for key, value in meta.items()}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(schema_meta), temporary)


def read_meta(path: Path, made_by: str = MADE_BY) -> dict[str, str]:
    """The metadata of the predictions in `path`. Raises UserError if the file cannot be read."""
    try:
        found = pq.read_schema(path).metadata or {}
        meta = {key.decode(): value.decode() for key, value in found.items()}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unusable(path, f"is not a predictions file ({error})", made_by) from error
    return {
        key.removeprefix(META_PREFIX): value for key, value in meta.items() if key.startswith(META_PREFIX)
    }


def read_predictions(
    path: Path, classes: Sequence[str], made_by: str = MADE_BY
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The logits in `path` (index image_id, float32, columns in the order of `classes`) and their metadata.

    An image that could not be read is NaN in every class. Raises UserError naming the command `made_by` if
    the file cannot be read, holds something else than logits of these classes by id, an id twice, or a logit
    that is no number.
    """
    meta = read_meta(path, made_by)
    try:
        with pq.ParquetFile(path) as file:
            if wrong := _wrong_columns(file.schema_arrow, classes):
                raise _unusable(path, wrong, made_by)
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise _unusable(path, f"is not a predictions file ({error})", made_by) from error
    frame = table.to_pandas(ignore_metadata=True).set_index("image_id")[list(classes)].astype(np.float32)
    twice = frame.index[frame.index.duplicated() | frame.index.isna()].unique()
    if len(twice):
        raise _unusable(path, f"holds ids more than once, or blank ones: {listing(twice)}", made_by)
    blank = frame.isna()
    broken = frame.index[np.isinf(frame).any(axis=1) | (blank.any(axis=1) & ~blank.all(axis=1))]
    if len(broken):
        wrong = f"holds rows with infinite logits, or with logits for some classes only: {listing(broken)}"
        raise _unusable(path, wrong, made_by)
    return frame, meta


def _unusable(path: Path, wrong: str, made_by: str) -> UserError:
    return UserError(f"{path} {wrong}. Make it again with: {made_by} --force")


def _wrong_columns(schema: pa.Schema, classes: Sequence[str]) -> str | None:
    names = schema.names
    missing = [name for name in ("image_id", *classes) if name not in names]
    unknown = [name for name in names if name not in ("image_id", *classes)]
    if missing or unknown:
        return (
            "does not hold the classes of this challenge "
            f"(missing: {listing(missing) or 'none'}; unknown: {listing(unknown) or 'none'})"
        )
    wrong = [field.name for field in schema if not _is_as_written(field)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if wrong or twice:
        return f"does not hold ids as text and one column of logits per class: {listing(wrong or twice)}"
    return None


def _is_as_written(field: pa.Field) -> bool:
    kind = field.type
    if field.name == "image_id":
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return pa.types.is_floating(kind)
