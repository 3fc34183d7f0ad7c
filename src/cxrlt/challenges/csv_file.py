"""Read a CSV file as text columns. Cells are never converted to numbers."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from cxrlt.errors import MissingFileError, UserError, listing, quoted, shortened
from cxrlt.spelling import closest_match
from cxrlt.system.user_files import HEADER_BYTES, count_columns, read_text, require_file, require_text

DOWNLOAD_HINT = "docs/challenges.md says where to get it and where it goes."
BLOCK_BYTES = 1 << 24
"""Bytes that are read at once."""
MAX_TABLE_BYTES = 1 << 29
"""Limit against memory errors: half a gigabyte."""
MAX_ROWS = 5_000_000
"""Limit against memory errors; CXR-LT 2024 has 377,110 rows."""


@dataclass(frozen=True)
class CsvFile:
    """Columns of stripped text, in file order, without columns that have no name."""

    path: Path
    columns: dict[str, pa.ChunkedArray]

    @property
    def row_numbers(self) -> pd.RangeIndex:
        """Row numbers as in a spreadsheet: the header is row 1, the first data row is row 2."""
        return pd.RangeIndex(2, 2 + len(next(iter(self.columns.values()))))

    def text(self, name: str) -> pd.Series:
        """Return a column as text, indexed by row number."""
        return self.columns[name].to_pandas().set_axis(self.row_numbers)

    def column(self, *names: str) -> str:
        """Return the first of `names` that the file has. Raises UserError with the most similar column."""
        for name in names:
            if name in self.columns:
                return name
        wanted = " or ".join(map(quoted, names))
        raise UserError(f"{self.path} has no column {wanted}{self._suggestion(names)}.")

    def optional_column(self, *names: str) -> str | None:
        """Like `column`, but return None if the file has no such column and none with a similar name."""
        if not any(name in self.columns for name in names) and self.closest_column(names) is None:
            return None
        return self.column(*names)

    def closest_column(self, names: Iterable[str]) -> str | None:
        """Return the column with the name most similar to one of `names`, or None."""
        return next((match for name in names if (match := closest_match(name, self.columns))), None)

    def _suggestion(self, names: Sequence[str]) -> str:
        if column := self.closest_column(names):
            return f"; did you mean {quoted(column)}? Then rename that column"
        return self.separator_hint or f"; it has {listing(self.columns)}"

    @property
    def separator_hint(self) -> str:
        """The end of an error about a file whose columns are separated by semicolons or tabs."""
        if len(self.columns) == 1 and (found := {";", "\t"} & set(next(iter(self.columns)))):
            return f"; its columns seem to be separated by {found.pop()!r}: save it with commas"
        return ""


def read_csv(
    path: Path, missing_hint: str = DOWNLOAD_HINT, *, unnamed: Sequence[str] = (), tabs: bool = False
) -> CsvFile:
    """Return every cell of the file as stripped text.

    `missing_hint` ends the error for a missing file. Header cells without a name get the names in `unnamed`,
    if their number matches. With `tabs`, a header with tabs and no comma means columns separated by tabs.
    Raises MissingFileError, or UserError for a file that is not a complete UTF-8 CSV file, for a repeated
    column name and for a table that is too large.
    """
    require_file(path, missing_hint, MAX_TABLE_BYTES)
    return make_csv_file(path, _read_cells(path, "\t" if tabs and _has_tabs_only(path) else ","), unnamed)


def make_csv_file(path: Path, cells: pa.Table, unnamed: Sequence[str] = ()) -> CsvFile:
    """Return the columns of a table of text whose first row has their names. Raises as `read_csv`."""
    header = [str(column[0]).strip() for column in cells.columns]
    if header.count("") == len(unnamed):
        names = iter(unnamed)
        header = [name or next(names) for name in header]
    twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if twice:
        raise UserError(f"{path} has several columns named {listing(map(quoted, twice))}. Keep one of each.")
    body = cells.slice(1)
    columns = {
        name: pyarrow.compute.utf8_trim_whitespace(column)
        for name, column in zip(header, body.columns, strict=True)
        if name
    }
    if not columns:
        raise UserError(f"{path} has no column with a name in its first row. Name the columns there.")
    if body.num_rows == 0:
        raise UserError(f"{path} has a header but no rows.")
    if body.num_rows > MAX_ROWS:
        raise UserError(
            f"{path} has {body.num_rows:,} rows; the maximum is {MAX_ROWS:,}. Is it the right file?"
        )
    return CsvFile(path, columns)


def read_first_csv(inputs_dir: Path, names: Sequence[str]) -> CsvFile:
    """Return the first of the files that exists; one that does not end in .csv can be separated by tabs.

    Raises MissingFileError without any, else as `read_csv`.
    """
    for name in names:
        if os.path.lexists(inputs_dir / name):
            return read_csv(inputs_dir / name, tabs=not name.endswith(".csv"))
    raise MissingFileError(f"{inputs_dir} does not contain {' or '.join(names)}. {DOWNLOAD_HINT}")


def _has_tabs_only(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.readline(HEADER_BYTES)
    return b"\t" in header and b"," not in header


def _read_cells(path: Path, separator: str) -> pa.Table:
    with path.open("rb") as file:
        require_text(file, path)
        n_columns = count_columns(file, path, separator)
        n_rows = _count_rows(file, path, separator)
        file.seek(0)
        try:
            cells = pyarrow.csv.read_csv(
                file,
                # one thread: otherwise errors do not contain the row
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, autogenerate_column_names=True, block_size=BLOCK_BYTES
                ),
                parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={f"f{place}": pa.string() for place in range(n_columns)},
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            problem = shortened(error, 200)
            raise UserError(
                f"{path} is not a complete CSV file ({problem}). If it was truncated, download it again."
            ) from error
    if n_columns != cells.num_columns or n_rows not in (None, cells.num_rows):
        raise UserError(
            f"{path} has quotes that can be read in two ways. Save it again with every quoted cell closed."
        )
    return cells


def _count_rows(file: BinaryIO, path: Path, separator: str) -> int | None:
    """Return the number of rows by the strict quoting rules, or None if nothing is quoted.

    After a quotation mark that is not closed, pyarrow reads many rows as one cell and loses them silently.
    Raises UserError with the line.
    """
    file.seek(0)
    if not any(b'"' in block for block in iter(lambda: file.read(BLOCK_BYTES), b"")):
        return None
    file.seek(0)
    lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        return sum(map(bool, reader))
    except csv.Error as error:
        raise UserError(
            f"{path}: the cell that ends in line {reader.line_num} is quoted wrongly, or too long "
            f"({error}). Close every quotation mark, and double quotation marks inside a cell."
        ) from error
    finally:
        lines.detach()  # otherwise it closes the file


def read_lines(path: Path) -> list[str]:
    """Return the stripped lines of a list of ids, without blank lines.

    Raises MissingFileError, or UserError for an empty file, a repeated line, and text that is not UTF-8.
    """
    lines = [line.strip() for line in read_text(path, DOWNLOAD_HINT).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty. If it was truncated, download it again.")
    twice = [line for line, count in Counter(lines).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {listing(twice)} more than once. Keep one line of each.")
    return lines


def read_classes(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a file with one stripped name per line, in file order.

    Raises MissingFileError, or UserError if they are not exactly the `known` ones.
    """
    found = read_lines(path)
    if missing := [name for name in known if name not in found]:
        raise UserError(f"{path} lacks the class{'es' if len(missing) > 1 else ''} {listing(missing)}.")
    if strange := [name for name in found if name not in known]:
        raise UserError(f"{path} has unknown classes: {listing(strange)}. Is it the file of another task?")
    return tuple(found)


def describe_rows(values: pd.Series, where: pd.Series | np.ndarray) -> str:
    """Return "row 3 ('12.0'), row 9 ('7.0')": the first ten rows where `where` is true, and their count."""
    return listing(f"row {row} ({quoted(value)})" for row, value in values[where].items())
