"""A CSV file as text columns, found by name. Nothing in it is ever guessed to be a number."""

import csv
import io
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

from cxrlt.errors import UserError, listing, quoted, shortened
from cxrlt.spelling import nearest
from cxrlt.system.user_files import count_columns, read_text, require_file, require_text

SOURCE = "inputs/README.md says where to get it and where it goes."
BLOCK_BYTES = 1 << 24
LARGEST_TABLE = 1 << 29
MOST_ROWS = 5_000_000


@dataclass(frozen=True)
class CsvFile:
    """Columns of stripped text in the order of the file, header cells without a name left out."""

    path: Path
    columns: dict[str, pa.ChunkedArray]

    @property
    def row_numbers(self) -> pd.RangeIndex:
        """As a spreadsheet numbers them: the header is row 1."""
        return pd.RangeIndex(2, 2 + len(next(iter(self.columns.values()))))

    def text(self, name: str) -> pd.Series:
        """The column as text, indexed by row number."""
        return self.columns[name].to_pandas().set_axis(self.row_numbers)

    def column(self, *names: str) -> str:
        """The first of `names` that the file has. Raises UserError with the nearest name it has instead."""
        for name in names:
            if name in self.columns:
                return name
        wanted = " or ".join(map(quoted, names))
        raise UserError(f"{self.path} has no column {wanted}{self._instead(names)}.")

    def optional_column(self, *names: str) -> str | None:
        """As `column`, but None if the file has neither the column nor one with nearly that name."""
        if not any(name in self.columns for name in names) and self.near(names) is None:
            return None
        return self.column(*names)

    def near(self, names: Iterable[str]) -> str | None:
        """The file's column that is nearest to one of `names`, if any is near."""
        return next((match for name in names if (match := nearest(name, self.columns))), None)

    def _instead(self, names: Sequence[str]) -> str:
        if near := self.near(names):
            return f"; the nearest name there is {quoted(near)}: rename that column if it is meant"
        return self.separated or f"; it has {listing(self.columns)}"

    @property
    def separated(self) -> str:
        """What to say of a file whose columns are separated by something else than commas."""
        if len(self.columns) == 1 and (found := {";", "\t"} & set(next(iter(self.columns)))):
            return f"; its columns seem to be separated by {found.pop()!r}: save it with commas"
        return ""


def read_csv(path: Path, source: str = SOURCE, *, unnamed: Sequence[str] = ()) -> CsvFile:
    """Every cell of the file as stripped text; `source` tells what to do if there is no such file.

    Header cells without a name get those of `unnamed` if there are exactly as many. Raises MissingFileError,
    or UserError for what is no whole UTF-8 CSV file, a name used twice, and a table of absurd size.
    """
    require_file(path, source, LARGEST_TABLE)
    cells = _read_cells(path)
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
        raise UserError(f"{path} has a header and no rows.")
    if body.num_rows > MOST_ROWS:
        raise UserError(
            f"{path} has {body.num_rows:,} rows; {MOST_ROWS:,} are the most. Is it the right one?"
        )
    return CsvFile(path, columns)


def _read_cells(path: Path) -> pa.Table:
    with path.open("rb") as file:
        require_text(file, path)
        n_columns = count_columns(file, path)
        n_rows = _count_rows(file, path)
        file.seek(0)
        try:
            cells = pyarrow.csv.read_csv(
                file,
                # one thread: only then does an error say in which row it is
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, autogenerate_column_names=True, block_size=BLOCK_BYTES
                ),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={f"f{place}": pa.string() for place in range(n_columns)},
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            problem = shortened(error, 200)
            raise UserError(
                f"{path} is not a whole CSV file ({problem}). If it was cut short, fetch it again."
            ) from error
    if n_columns != cells.num_columns or n_rows not in (None, cells.num_rows):
        raise UserError(f"{path} can be read in two ways. Save it again with every quoted cell closed.")
    return cells


def _count_rows(file: BinaryIO, path: Path) -> int | None:
    """The rows by the strict rules of quoting, None if nothing is quoted.

    pyarrow takes what follows a quotation mark that is never closed, or closed by the next stray one, for one
    cell: rows would be lost without a word. Raises UserError with the line.
    """
    file.seek(0)
    if not any(b'"' in block for block in iter(lambda: file.read(BLOCK_BYTES), b"")):
        return None
    file.seek(0)
    lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
    reader = csv.reader(lines, strict=True)
    try:
        return sum(map(bool, reader))
    except csv.Error as error:
        raise UserError(
            f"{path}: the cell that ends in line {reader.line_num} is quoted wrongly, or too long "
            f"({error}). Close every quotation mark, and double those within a cell."
        ) from error
    finally:
        lines.detach()  # or it would close the file


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a list of ids, blank ones left out.

    Raises MissingFileError, or UserError for a repeated line and for what is no list of UTF-8 text.
    """
    lines = [line.strip() for line in read_text(path, SOURCE).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty. If it was cut short, fetch it again.")
    twice = [line for line, count in Counter(lines).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {listing(twice)} more than once. Keep one line of each.")
    return lines


def read_classes(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """The classes of a file with one per line, in its order; blanks and tabs at the ends are left out.

    Raises MissingFileError, or UserError if they are not the `known` ones.
    """
    found = read_lines(path)
    if missing := [name for name in known if name not in found]:
        raise UserError(f"{path} lacks the class{'es' if len(missing) > 1 else ''} {listing(missing)}.")
    if strange := [name for name in found if name not in known]:
        raise UserError(f"{path} has classes that are not known: {listing(strange)}. Is it another task's?")
    return tuple(found)


def rows(values: pd.Series, where: pd.Series | np.ndarray) -> str:
    """'row 3 ('12.0'), row 9 ('7.0')': the rows of a column where `where` holds, first ten and count."""
    return listing(f"row {row} ({quoted(value)})" for row, value in values[where].items())
