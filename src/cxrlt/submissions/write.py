"""A submission on disk: the template's rows and columns, filled in by id and by class name."""

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
from cxrlt.system.locks import exclusive

# Near 1 a probability needs more digits than its logit: 12 keep logits up to 13 apart that differ by 1e-6.
DIGITS = 12
# powers of ten that float64 holds exactly, and the numbers that they make 12 digits of
SCALES = np.array([float(f"1e{power}") for power in range(23)])
SMALLEST, LARGEST = float(f"1e{DIGITS - len(SCALES)}"), float(f"1e{DIGITS}")
BOUNDS = np.array([float(f"1e{DIGITS - 1 - power}") for power in reversed(range(len(SCALES)))])
# digits are hardly ever repeated: to look for it longer takes ten times the time and gains nothing
COMPRESSION = 1
MEMBER = "submission.csv"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
ZIP_MODE = 0o644
BUILDING = ".building"


class IncompleteError(UserError):
    """Rows of the template have no prediction."""


@dataclass(frozen=True)
class Written:
    """The files of a submission; `unchanged` if they stood there already, byte for byte."""

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
) -> Written:
    """Write the CSV and the zip of `name` for `split`, once they have passed validation.

    `probabilities` (index image_id, a column per class) may hold rows and columns in any order, and more of
    them. `code` are files to add to the zip, by their name in it. The same values give the same bytes. Raises
    IncompleteError for rows without a prediction, UserError for what the validator finds.
    """
    ids = challenge.template(split, workspace.inputs_dir(challenge.name))
    rows = submission_rows(challenge, ids, probabilities)
    folder = workspace.submission_dir(challenge.name, name)
    stem = "submission" if split == "test" else f"submission_{split}"
    places = folder / f"{stem}.csv", folder / f"{stem}.zip"
    with exclusive(folder, wait=True), _building(folder) as building:
        made = table, packed = tuple(building / path.name for path in places)
        with atomic_path(table) as temporary, temporary.open("wb") as file:
            write_csv(file, challenge, rows)
        with atomic_path(packed) as temporary, temporary.open("wb") as file:
            _pack(file, {MEMBER: table} | dict(sorted((code or {}).items())))
        unchanged = all(map(_same_bytes, made, places))
        if not unchanged:
            _require_valid(table, places[0], challenge, ids)
            _require_packed(packed, places[1], table)
            places[1].unlink(missing_ok=True)  # no zip, rather than one that is not of the CSV beside it
            for temporary, path in zip(made, places, strict=True):
                temporary.replace(path)
    return Written(*places, len(ids), unchanged)


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A place for files that are not validated yet, without what a killed process left in it."""
    building = folder / BUILDING
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def submission_rows(challenge: Challenge, ids: Sequence[str], probabilities: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of `ids`, columns in the challenge's, float64. Raises as `write_submission`."""
    absent = [name for name in challenge.classes if name not in probabilities.columns]
    if absent:
        raise UserError(f"The predictions lack classes of {challenge.name}: {listing(absent)}.")
    if not probabilities.index.is_unique:
        twice = probabilities.index[probabilities.index.duplicated()].unique()
        raise UserError(f"The predictions hold ids more than once: {listing(twice)}.")
    rows = probabilities.reindex(index=ids, columns=list(challenge.classes)).astype(np.float64)
    missing = rows.index[rows.isna().any(axis=1)]
    if len(missing):
        raise IncompleteError(
            f"{len(missing):,} of the template's {len(ids):,} ids have no prediction: {listing(missing)}."
            f"{other_spellings(missing, probabilities.index.difference(missing))}"
        )
    return rows


def write_csv(file: BinaryIO, challenge: Challenge, rows: pd.DataFrame) -> None:
    """Write a header and `rows` (index image_id, a float64 column per class), each value by `significant`."""
    columns = [pa.array(rows.index, pa.string()), *(significant(rows[name].to_numpy()) for name in rows)]
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


def significant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest numbers that can be written with 12 significant digits, the same on every machine."""
    size = np.abs(values)
    scale = SCALES[::-1][np.maximum(np.searchsorted(BOUNDS, size, side="right") - 1, 0)]
    rounded = np.rint(values * scale) / scale
    beyond = (size != 0) & ((size < SMALLEST) | (size >= LARGEST))
    rounded[beyond] = [float(f"{value:.{DIGITS}g}") for value in values[beyond]]
    return rounded


def _pack(packed: BinaryIO, contents: Mapping[str, Path]) -> None:
    """Write a zip of files, by their name in it, whose bytes depend on theirs alone."""
    with zipfile.ZipFile(packed, "w") as archive:
        for name, file in contents.items():
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix, wherever it is written
            info.external_attr = ZIP_MODE << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file.read_bytes(), compresslevel=COMPRESSION)


def _same_bytes(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


def _require_valid(written: Path, path: Path, challenge: Challenge, ids: Sequence[str]) -> None:
    problems = validate_submission(written, challenge, ids)
    if problems:
        raise UserError(f"{path} was not written, as it would be rejected. {' '.join(problems)}")


def _require_packed(packed: Path, path: Path, table: Path) -> None:
    """Raises UserError unless the zip is as servers take it, and holds the validated CSV."""
    try:
        with open_csv(packed) as packed_file, table.open("rb") as file:
            same = _same_to_the_end(packed_file, file)
    except UserError as error:
        raise UserError(f"{path} was not written, as it would be rejected. {error}") from error
    if not same:
        raise UserError(f"{path} was not written, as it does not hold the bytes of the CSV. Submit again.")


def _same_to_the_end(one: BinaryIO, other: BinaryIO) -> bool:
    while block := one.read(BLOCK_BYTES):
        if block != other.read(BLOCK_BYTES):
            return False
    return not other.read(1)
