"""Write submissions: the rows and columns of the template, filled in by id and by class name."""

import csv
import filecmp
import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.spelling import other_spellings
from cxrlt.submissions.read import BLOCK_BYTES, open_csv
from cxrlt.submissions.validate import validate_submission
from cxrlt.system.atomic_files import atomic_path
from cxrlt.system.locks import lock_folder

# Near 1 a probability needs more digits than its logit: with 12 digits, logits up to 13 that differ by 1e-6
# stay different.
N_DIGITS = 12
# powers of ten that float64 represents exactly, and the range of numbers that they scale to 12 digits
SCALES = np.array([float(f"1e{power}") for power in range(23)])
MIN_SCALED, MAX_SCALED = float(f"1e{N_DIGITS - len(SCALES)}"), float(f"1e{N_DIGITS}")
BOUNDS = np.array([float(f"1e{N_DIGITS - 1 - power}") for power in reversed(range(len(SCALES)))])
# digits hardly ever repeat: a higher level takes ten times as long and gains nothing
COMPRESSION_LEVEL = 1
CSV_NAME = "submission.csv"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the zip: the earliest one that the zip format allows."""
ZIP_MODE = 0o644
"""File permissions in the zip: with ZIP_TIME, the same bytes on every machine."""
STAGING = ".staging"


class IncompleteError(UserError):
    """Rows of the template have no prediction; the message names the command that predicts them."""


@dataclass(frozen=True)
class SubmissionFiles:
    """The files of a submission; `unchanged` if the same bytes were already there."""

    csv_path: Path
    zip_path: Path
    n_rows: int
    unchanged: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = "already done" if self.unchanged else f"valid, {self.n_rows:,} rows"
        return "\n".join(
            [f"submission: {done} ({self.zip_path})", *(f"  note: {note}" for note in self.notes)]
        )


def write_submission(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str,
    probabilities: pd.DataFrame,
    code: Mapping[str, Path] | None = None,
) -> SubmissionFiles:
    """Validate and write the CSV and the zip of `name` for `split`.

    `probabilities` (index image_id, one column per class) may have rows and columns in any order, and extra
    ones. `code` are files to add to the zip, by their name in it. The same values give the same bytes. Raises
    IncompleteError for rows without a prediction, UserError if a class is missing or the file is not valid.
    """
    ids = challenge.template(split, workspace.inputs_dir(challenge.name))
    rows = submission_rows(challenge, ids, probabilities)
    folder = workspace.submission_dir(challenge.name, name)
    stem = "submission" if split == "test" else f"submission_{split}"
    places = folder / f"{stem}.csv", folder / f"{stem}.zip"
    with lock_folder(folder, wait=True), _staging_dir(folder) as staging:
        made = table, packed = tuple(staging / path.name for path in places)
        with atomic_path(table) as temporary, temporary.open("wb") as file:
            write_csv(file, challenge, rows)
        with atomic_path(packed) as temporary, temporary.open("wb") as file:
            _pack(file, {CSV_NAME: table} | dict(sorted((code or {}).items())))
        unchanged = all(map(_same_bytes, made, places))
        if not unchanged:
            _require_valid(table, places[0], challenge, ids)
            _require_packed(packed, places[1], table)
            places[1].unlink(missing_ok=True)  # never leave an old zip next to a new CSV
            for temporary, path in zip(made, places, strict=True):
                temporary.replace(path)
    return SubmissionFiles(*places, len(ids), unchanged)


@contextmanager
def _staging_dir(folder: Path) -> Iterator[Path]:
    """Create an empty folder for files that are not validated yet, and remove it at the end."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # a killed process can leave files behind
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def submission_rows(challenge: Challenge, ids: Sequence[str], probabilities: pd.DataFrame) -> pd.DataFrame:
    """Return float64 probabilities with rows in the order of `ids` and columns in the challenge's order.

    `probabilities` and the result have the index image_id and one column per class. Raises UserError for a
    missing class or a duplicate id, IncompleteError for rows without a prediction.
    """
    absent = [name for name in challenge.classes if name not in probabilities.columns]
    if absent:
        raise UserError(f"The predictions lack classes of {challenge.name}: {listing(absent)}.")
    if not probabilities.index.is_unique:
        twice = probabilities.index[probabilities.index.duplicated()].unique()
        raise UserError(f"The predictions have duplicate ids: {listing(twice)}.")
    rows = probabilities.reindex(index=list(ids), columns=list(challenge.classes)).astype(np.float64)
    missing = rows.index[rows.isna().any(axis=1)]
    if len(missing):
        raise IncompleteError(
            f"{len(missing):,} of the template's {len(ids):,} ids have no prediction: {listing(missing)}."
            f"{other_spellings(missing, probabilities.index.difference(missing))}"
        )
    return rows


def write_csv(file: BinaryIO, challenge: Challenge, rows: pd.DataFrame) -> None:
    """Write a header and `rows` (index image_id, one float64 column per class), rounded to 12 digits."""
    columns = [
        pa.array(rows.index, pa.string()),
        *(round_significant(rows[name].to_numpy()) for name in rows),
    ]
    needs_quotes = pyarrow.compute.match_substring_regex(columns[0], '[",\r\n]')
    quoting = "needed" if pyarrow.compute.any(needs_quotes).as_py() else "none"
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(challenge.submission_columns)
    file.write(header.getvalue().encode())
    pyarrow.csv.write_csv(
        pa.table(columns, challenge.submission_columns),
        file,
        pyarrow.csv.WriteOptions(include_header=False, quoting_style=quoting),
    )


def round_significant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round values (any shape) to 12 significant digits, with the same result on every machine."""
    size = np.abs(values)
    scale = SCALES[::-1][np.maximum(np.searchsorted(BOUNDS, size, side="right") - 1, 0)]
    rounded = np.rint(values * scale) / scale
    beyond = (size != 0) & ((size < MIN_SCALED) | (size >= MAX_SCALED))
    rounded[beyond] = [float(f"{value:.{N_DIGITS}g}") for value in values[beyond]]
    return rounded


def _pack(packed: BinaryIO, contents: Mapping[str, Path]) -> None:
    """Write a zip of files, by their name in it. Its bytes depend only on names and contents."""
    with zipfile.ZipFile(packed, "w") as archive:
        for name, file in contents.items():
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix, on every system
            info.external_attr = ZIP_MODE << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file.read_bytes(), compresslevel=COMPRESSION_LEVEL)


def _same_bytes(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


def _require_valid(written: Path, path: Path, challenge: Challenge, ids: Sequence[str]) -> None:
    problems = validate_submission(written, challenge, ids)
    if problems:
        raise UserError(f"{path} was not written, because it would be rejected. {' '.join(problems)}")


def _require_packed(packed: Path, path: Path, table: Path) -> None:
    """Raise UserError unless servers accept the zip and it has the validated CSV."""
    try:
        with open_csv(packed) as packed_file, table.open("rb") as file:
            same = _same_content(packed_file, file)
    except UserError as error:
        raise UserError(f"{path} was not written, because it would be rejected. {error}") from error
    if not same:
        raise UserError(f"{path} was not written, because its CSV has other bytes. Run the command again.")


def _same_content(one: BinaryIO, other: BinaryIO) -> bool:
    while block := one.read(BLOCK_BYTES):
        if block != other.read(BLOCK_BYTES):
            return False
    return not other.read(1)
