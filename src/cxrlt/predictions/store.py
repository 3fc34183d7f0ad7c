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


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The logits in `path` (index image_id, float32, columns in the order of `classes`) and their metadata.

    Raises UserError if the file cannot be read, lacks a class, has an unknown one or an id twice.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is not a predictions file ({error}). Make it again with --force.") from error
    meta = {
        key.decode().removeprefix(META_PREFIX): value.decode()
        for key, value in (table.schema.metadata or {}).items()
        if key.decode().startswith(META_PREFIX)
    }
    frame = table.to_pandas().set_index("image_id")
    missing = [name for name in classes if name not in frame.columns]
    unknown = [name for name in frame.columns if name not in classes]
    if missing or unknown:
        raise UserError(
            f"{path} does not hold the classes of this challenge "
            f"(missing: {listing(missing) or 'none'}; unknown: {listing(unknown) or 'none'})."
        )
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()].unique()
        raise UserError(f"{path} holds ids more than once: {listing(twice)}. Make it again with --force.")
    return frame[list(classes)].astype(np.float32), meta
