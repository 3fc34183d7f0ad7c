"""A submission file as the text in its cells: nothing is stripped, guessed or put right."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from cxrlt.errors import UserError, listing

CODE_FOLDER = "code/"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Submission:
    """The header, and a column of text per cell of it, whose rows are those below the header."""

    header: tuple[str, ...]
    columns: tuple[pa.ChunkedArray, ...]

    @property
    def row_numbers(self) -> pd.RangeIndex:
        """As a spreadsheet numbers them: the header is row 1."""
        return pd.RangeIndex(2, len(self.columns[0]) + 2)

    def column(self, name: str) -> pd.Series:
        """The first column of that name, as text, indexed by row number."""
        return self._column(name).to_pandas().set_axis(self.row_numbers)

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The columns of those names as float64 (rows, names); NaN where a cell is no number."""
        values = np.empty((len(names), len(self.row_numbers)))
        for row, name in zip(values, names, strict=True):
            try:
                row[:] = pyarrow.compute.cast(self._column(name), pa.float64())
            except pa.ArrowInvalid:  # a cell is no number, or has blanks around it
                row[:] = pd.to_numeric(self.column(name), errors="coerce").to_numpy(
                    np.float64, na_value=np.nan
                )
        return values.T

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.columns[self.header.index(name)]


def read_submission(path: Path) -> Submission:
    """The CSV at `path`, or the one at the top level of the zip at `path`.

    Raises UserError if there is no such file, or if it is no CSV or no zip as servers take it.
    """
    table = _cells(path)
    header = tuple(column[0].as_py() for column in table.columns)
    return Submission(header, tuple(column.slice(1) for column in table.columns))


@contextmanager
def open_csv(path: Path) -> Iterator[BinaryIO]:
    """The bytes of the CSV at `path`, or of the one at the top level of the zip at `path`.

    Raises UserError if there is no such file, or if it is no zip as servers take it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise UserError(f"{path} is not a zip file. Write it again with: cxrlt submit NAME")
        with path.open("rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_csv_in_zip(archive, path)) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}). Write it again.") from error


def _csv_in_zip(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if not name.startswith(CODE_FOLDER)]
    csvs = [name for name in names if name.lower().endswith(".csv")]
    if not csvs:
        raise UserError(f"{path} holds no CSV: {listing(names) or 'nothing'}.")
    if len(csvs) > 1:
        raise UserError(f"{path} holds more than one CSV: {listing(csvs)}. Keep one.")
    if "/" in csvs[0]:
        raise UserError(f"{path} holds its CSV in a folder ({csvs[0]}). Put it at the top level.")
    if len(names) > 1:
        others = [name for name in names if name not in csvs]
        raise UserError(
            f"{path} holds {listing(others)}; only {CODE_FOLDER} may stand beside the CSV. Take it out."
        )
    return csvs[0]


def _cells(path: Path) -> pa.Table:
    """Every cell as text; the header is the first row.

    A plain file is read by pyarrow. What that refuses, and what it may take in another way than spreadsheets
    and servers do, is read by pandas, several times slower.
    """
    with open_csv(path) as file:
        plain = _is_plain(file)
    if plain:
        try:
            with open_csv(path) as file:
                return _plain_cells(file)
        except pa.ArrowInvalid:  # to be told in the words of pandas
            pass
    try:
        with open_csv(path) as file:
            text = pd.read_csv(file, header=None, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file with rows of one length ({error}).") from error
    return pa.Table.from_pandas(text.fillna(""), preserve_index=False)  # "": what a short row lacks


def _is_plain(file: BinaryIO) -> bool:
    """Whether it has columns, and none of the characters that readers of CSV files differ about."""
    if b"," not in file.readline():
        return False
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        if block.endswith(b"\r"):
            block += file.read(1)
        if b'"' in block or b"\0" in block or block.count(b"\r") != block.count(b"\r\n"):
            return False
    return True


def _plain_cells(file: BinaryIO) -> pa.Table:
    n_columns = file.readline().count(b",") + 1
    file.seek(0)
    return pyarrow.csv.read_csv(
        file,
        # one thread: two take as long, and twice the memory
        read_options=pyarrow.csv.ReadOptions(use_threads=False, autogenerate_column_names=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={f"f{place}": pa.string() for place in range(n_columns)}, strings_can_be_null=False
        ),
    )
