"""A CSV file as text columns, found by name. Nothing in it is ever guessed to be a number."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from cxrlt.challenges.spelling import nearest
from cxrlt.errors import UserError, listing

SOURCE = "inputs/README.md says where to get it and where it goes."
BLOCK_BYTES = 1 << 24


class MissingFileError(UserError):
    """A file that is simply not there, as a test table before the test phase."""


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
        wanted = " or ".join(map(repr, names))
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
            return f"; the nearest name there is {near!r}: rename that column if it is meant"
        if len(self.columns) == 1 and (found := {";", "\t"} & set(next(iter(self.columns)))):
            return f"; its columns seem to be separated by {found.pop()!r}: save it with commas"
        return f"; it has {listing(self.columns)}"


def read_csv(path: Path, source: str = SOURCE, *, unnamed: Sequence[str] = ()) -> CsvFile:
    """Every cell of the file as stripped text; `source` tells what to do if there is no such file.

    Header cells without a name get those of `unnamed` if there are exactly as many. Raises MissingFileError,
    or UserError for a broken row, an encoding other than UTF-8, a name used twice.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist. {source}")
    cells = _read_cells(path)
    header = [str(column[0]).strip() for column in cells.columns]
    if header.count("") == len(unnamed):
        names = iter(unnamed)
        header = [name or next(names) for name in header]
    twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if twice:
        raise UserError(
            f"{path} has more than one column named {listing(map(repr, twice))}. Keep one of each."
        )
    body = cells.slice(1)
    columns = {
        name: pyarrow.compute.utf8_trim_whitespace(column)
        for name, column in zip(header, body.columns, strict=True)
        if name
    }
    if body.num_rows == 0:
        raise UserError(f"{path} has a header and no rows.")
    return CsvFile(path, columns)


def _read_cells(path: Path) -> pa.Table:
    with path.open("rb") as file:
        widest = file.readline().count(b",") + 1
    options = pyarrow.csv.ConvertOptions(
        column_types={f"f{i}": pa.string() for i in range(widest)}, strings_can_be_null=False
    )
    try:
        return pyarrow.csv.read_csv(
            path,
            # one thread: only then does an error say in which row it is
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, autogenerate_column_names=True, block_size=BLOCK_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        )
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a whole UTF-8 CSV file ({error}). If it was cut short, download it again."
        ) from error


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a list of ids, blank ones left out.

    Raises MissingFileError, or UserError for a repeated line.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist. {SOURCE}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
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
    return listing(f"row {row} ({value!r})" for row, value in values[where].items())
