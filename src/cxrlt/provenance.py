"""What an artifact was made of, and whether that is what there is now: one rule for all of them.

Every artifact keeps a digest for each part of what it was made of. It is current while each part that is
known now has the digest it had then. Values are compared and not bytes: a comment in a YAML file, another
order of rows or of class columns, or weights trained again to the same numbers change nothing.
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

MadeOf = dict[str, str]
"""Digest by part. A part with a column per class, or with fields, also has one for each: "labels.Mass"."""

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
"""Every part, and what is said of an artifact that differs in it."""
DETAIL_DIGITS = 16
"""Of the digest of a class or a field, which only names what differs."""


class OutdatedError(UserError):
    """What is read was made of something else than there is now."""


def made_of(**parts: object) -> MadeOf:
    """The digest of each part. A part that is None is not known and is left out.

    A DataFrame also gets a digest for each column, and a mapping one for each key.
    """
    digests: MadeOf = {}
    for part, value in parts.items():
        if value is None:
            continue
        columns = _columns(value)
        details = {name: digest(column) for name, column in columns.items()}
        digests[part] = digest(sorted(details.items())) if columns else digest(value)
        digests |= {f"{part}.{name}": found[:DETAIL_DIGITS] for name, found in details.items()}
    return digests


def digest(value: object) -> str:
    """SHA-256, in hexadecimal, of a value: the one definition of a hash in this package.

    Series and DataFrames are hashed by index label and column name, in any order of these. Anything
    else is hashed as JSON knows it.
    """
    if isinstance(value, pd.DataFrame):
        return digest({str(name): digest(column) for name, column in _columns(value).items()})
    if isinstance(value, pd.Series):
        return _digest_of_series(value)
    return _sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def is_current(before: Mapping[str, object], now: MadeOf) -> bool:
    """Whether every part that is known now is the same as it was."""
    return not differing(before, now)


def differing(before: Mapping[str, object], now: MadeOf) -> dict[str, list[str]]:
    """The parts that are not what they were, each with the names of its columns or fields that differ."""
    parts = [part for part in PARTS if part in now and before.get(part) != now[part]]
    return {part: _details(part, before, now) for part in parts}


def in_words(found: Mapping[str, list[str]]) -> str:
    """'another recipe (optim.lr), other labels (Mass) and other weights'."""
    *most, last = (PARTS[part] + (f" ({listing(names)})" if names else "") for part, names in found.items())
    return f"{', '.join(most)} and {last}" if most else last


def only(parts: Iterable[str], of: Mapping[str, str]) -> MadeOf:
    """These parts of a `MadeOf`, with their details."""
    wanted = set(parts)
    return {key: value for key, value in of.items() if key.partition(".")[0] in wanted}


def digest_of_weights(path: Path) -> str:
    """Digest of the tensors in a safetensors file, without its metadata.

    Read once per process as long as the file stays the same. Raises UserError if there is no file. A file
    that is not safetensors has the digest of its bytes: the stage that loads it says what is wrong with it.
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
    """What is hashed of each column of a table, or what a mapping holds; nothing of other values."""
    if not isinstance(value, pd.DataFrame):
        return value if isinstance(value, Mapping) else {}
    ordered = value.iloc[_order(value.index)]
    ids = _sha256(_text(ordered.index))
    return {str(name): [ids, _sha256(_bytes(ordered[name]))] for name in ordered}


def _details(part: str, before: Mapping[str, object], now: MadeOf) -> list[str]:
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
        array[np.isnan(array)] = np.nan  # one NaN of the many there are
    return f"{array.dtype}".encode() + array.tobytes()


def _text(values: pd.Index | pd.Series) -> bytes:
    """Lengths, then characters: no two lists of texts have the same bytes. A blank has the length -1."""
    texts = pa.array(values, pa.large_string(), from_pandas=True)
    lengths = pyarrow.compute.fill_null(pyarrow.compute.binary_length(texts), -1)
    characters = "".join(texts.drop_null().to_pylist()).encode()
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes() + characters


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
