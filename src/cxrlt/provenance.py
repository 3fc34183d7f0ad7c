"""The provenance of artifacts: digests of their inputs, and one rule for whether an artifact is current.

Every artifact stores a digest of each of its inputs. It is current while every input that is known now has
the stored digest. Digests are of values, not of bytes: a comment in a YAML file, another order of rows or of
class columns, or weights trained again to the same numbers change nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from cxrlt.errors import UserError, listing
from cxrlt.system.atomic_files import file_state

Provenance = dict[str, str]
"""Digest by part. A part with columns or fields also has a digest of each of them: "labels.Mass"."""

PARTS = {
    "split": "another split into folds",
    "rows": "other rows",
    "classes": "other classes",
    "recipe": "another recipe",
    "start": "other weights to start from",
    "weights": "other weights",
    "labels": "other labels",
    "pixels": "other pixels",
    "views": "other studies or views",
    "predictions": "other predictions",
    "ensemble": "another ensemble",
    "calibration": "another calibration",
}
"""Every part, and the words for an artifact that differs in it."""
N_DETAIL_DIGITS = 16
"""Hexadecimal digits of the digest of a column or a field, which only serves to name what differs."""


class OutdatedError(UserError):
    """An artifact does not match its current inputs; the message names the command that renews it."""


def provenance_of(**parts: object) -> Provenance:
    """Return the digest of each part. None means unknown: the part is skipped.

    A DataFrame also gets a digest of each column, and a mapping a digest of each key.
    """
    digests: Provenance = {}
    for part, value in parts.items():
        if value is None:
            continue
        columns = _columns(value)
        details = {name: digest(column) for name, column in columns.items()}
        digests[part] = digest(sorted(details.items())) if columns else digest(value)
        digests |= {f"{part}.{name}": found[:N_DETAIL_DIGITS] for name, found in details.items()}
    return digests


def digest(value: object) -> str:
    """Return the SHA-256 of a value in hexadecimal: the one definition of a hash in this package.

    The hash of a Series or DataFrame does not depend on the order of its index and columns. Any other value
    is hashed as JSON.
    """
    if isinstance(value, pd.DataFrame):
        return digest({str(name): digest(column) for name, column in _columns(value).items()})
    if isinstance(value, pd.Series):
        return _digest_of_series(value)
    return _sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def is_current(before: Mapping[str, object], now: Provenance) -> bool:
    """Return whether every part of `now` has the same digest in `before`."""
    return not find_differences(before, now)


def find_differences(before: Mapping[str, object], now: Provenance) -> dict[str, list[str]]:
    """Return the parts of `now` that differ from `before`, each with its columns or fields that differ."""
    parts = [part for part in PARTS if part in now and before.get(part) != now[part]]
    return {part: _details(part, before, now) for part in parts}


def describe_differences(found: Mapping[str, list[str]]) -> str:
    """Return words such as 'another recipe (optim.lr), other labels (Mass) and other weights'."""
    *first, last = (PARTS[part] + (f" ({listing(names)})" if names else "") for part, names in found.items())
    return f"{', '.join(first)} and {last}" if first else last


def select_parts(parts: Iterable[str], provenance: Mapping[str, str]) -> Provenance:
    """Return these parts of a provenance, with their columns and fields."""
    wanted = set(parts)
    return {key: value for key, value in provenance.items() if key.partition(".")[0] in wanted}


def digest_of_weights(path: Path) -> str:
    """Return the digest of the tensors in a safetensors file, without its metadata.

    The file is read once per process, until it changes. A file that is not safetensors gets the digest of its
    bytes; the stage that loads it reports the damage. Raises UserError if the file does not exist.
    """
    state = file_state(path)
    if state is None:
        raise UserError(f"{path} does not exist: train that fold first.")
    return _digest_of_tensors(path, state)


@cache
def _digest_of_tensors(path: Path, state: tuple[int, ...]) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        size, n_header = state[0], int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(n_header if n_header < size else 0))
            header.pop("__metadata__", None)
            hasher.update(json.dumps(header, sort_keys=True).encode())
        except (ValueError, AttributeError):
            file.seek(0)
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _columns(value: object) -> Mapping[str, object]:
    """Return what is hashed of each column of a table, or the mapping itself; {} for other values."""
    if not isinstance(value, pd.DataFrame):
        return value if isinstance(value, Mapping) else {}
    ordered = value.iloc[_order(value.index)]
    ids = _sha256(_text(ordered.index))
    return {str(name): [ids, _sha256(_bytes(ordered[name]))] for name in ordered}


def _details(part: str, before: Mapping[str, object], now: Provenance) -> list[str]:
    keys = [key for key in {**now, **before} if key.startswith(f"{part}.")]
    return [key.partition(".")[2] for key in keys if before.get(key) != now.get(key)]


def _digest_of_series(series: pd.Series) -> str:
    ordered = series.iloc[_order(series.index)]
    return digest([_sha256(_text(ordered.index)), _sha256(_bytes(ordered))])


def _order(index: pd.Index) -> np.ndarray:
    return pyarrow.compute.sort_indices(pa.array(index, pa.large_string())).to_numpy()


def _bytes(values: pd.Series) -> bytes:
    if not pd.api.types.is_numeric_dtype(values.dtype):
        return _text(values)
    array = np.array(values.to_numpy(), copy=True)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan  # NaN has many bit patterns: use one
    return f"{array.dtype}".encode() + array.tobytes()


def _text(values: pd.Index | pd.Series) -> bytes:
    """Return lengths, then characters: different lists have different bytes. A missing text has length -1."""
    texts = pa.array(values, pa.large_string(), from_pandas=True)
    lengths = pyarrow.compute.fill_null(pyarrow.compute.binary_length(texts), -1)
    characters = "".join(texts.drop_null().to_pylist()).encode()
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes() + characters


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
