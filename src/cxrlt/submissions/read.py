"""A submission file as the text in its cells: nothing is stripped, guessed or corrected."""

import io
import re
import stat
import struct
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

from cxrlt.challenges.columns import UNSAFE_PATH
from cxrlt.challenges.csv_file import LARGEST_TABLE, MOST_ROWS
from cxrlt.errors import UserError, listing, quoted, shortened
from cxrlt.system.user_files import count_columns, require_file, require_text

CODE_FOLDER = "code/"
BLOCK_BYTES = 1 << 20
LARGEST_ZIP = 1 << 36
"""Of a zip with code and perhaps weights: of its members only the CSV is read."""
LARGEST_DIRECTORY = 1 << 22
"""Of the names in a zip: zipfile takes some twenty times as much memory."""
ENCRYPTED = 1
MISSING = "Name a file that cxrlt submit wrote, or one of its form."
# what Python and pandas take for a number; possessive, so that a long cell is gone through once
NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d++\.?\d*+|\.\d++)(?:e[+-]?\d++)?|inf(?:inity)?|nan)\s*", re.ASCII | re.IGNORECASE
)


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
                cells = self._column(name).to_pylist()
                row[:] = [float(cell) if NUMBER.fullmatch(cell) else np.nan for cell in cells]
        return values.T

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.columns[self.header.index(name)]


def read_submission(path: Path, largest: int = LARGEST_TABLE, most_rows: int = MOST_ROWS) -> Submission:
    """The CSV at `path`, or the one at the top level of the zip at `path`.

    Raises UserError if there is no such file, if it is no CSV or no zip as servers take it, or if the CSV has
    more than `largest` bytes, beyond which a zip is not unpacked, or more than `most_rows` below the header.
    """
    table = _cells(path, largest, most_rows + 1)
    if table.num_rows > most_rows + 1:
        raise UserError(f"{path} has more than {most_rows:,} rows. Is it the right one?")
    header = tuple(column[0].as_py() for column in table.columns)
    return Submission(header, tuple(column.slice(1) for column in table.columns))


def is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one of several disks
        return True


@contextmanager
def open_csv(path: Path, largest: int = LARGEST_TABLE) -> Iterator[BinaryIO]:
    """The bytes of the CSV at `path`, or of the one at the top level of the zip at `path`.

    Raises UserError as `read_submission`.
    """
    require_file(path, MISSING, LARGEST_ZIP)
    packed = is_zip(path)
    if packed and path.suffix.lower() == ".csv":
        raise UserError(f"{path} is a zip file. Rename it to .zip.")
    if packed:
        yield io.BytesIO(_unpack(path, largest))
        return
    if path.suffix.lower() == ".zip":
        raise UserError(f"{path} is not a zip file. Write it again with: cxrlt submit NAME")
    require_file(path, MISSING, largest)
    with path.open("rb") as file:
        yield file


class _Pieces(io.FileIO):
    """A zip on disk, whose directory zipfile would read at once, however large."""

    def read(self, size: int = -1, /) -> bytes:
        if size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"more than {LARGEST_DIRECTORY:,} bytes of names")
        return super().read(size)


def _unpack(path: Path, largest: int) -> bytes:
    """The CSV in the zip, once its checksum is right."""
    try:
        with _Pieces(path) as file, zipfile.ZipFile(file) as archive:
            member = _csv_in_zip(archive, path)
            if member.file_size > largest:
                raise UserError(
                    f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; {largest:,} are the "
                    "most here. Is it the right one?"
                )
            with archive.open(member) as packed:
                return b"".join(iter(lambda: packed.read(BLOCK_BYTES), b""))
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise UserError(f"{path} cannot be unpacked ({shortened(error, 200)}). Write it again.") from error


def _csv_in_zip(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    for member in archive.infolist():
        _refuse_what_could_leave(member, path)
    members = [member for member in archive.infolist() if not member.filename.startswith(CODE_FOLDER)]
    names = [member.filename for member in members]
    csvs = [member for member in members if member.filename.lower().endswith(".csv")]
    if not csvs:
        raise UserError(f"{path} holds no CSV: {listing(names) or 'nothing'}.")
    if len(csvs) > 1:
        raise UserError(f"{path} holds more than one CSV: {listing(c.filename for c in csvs)}. Keep one.")
    [member] = csvs
    if "/" in member.filename:
        place = shortened(member.filename)
        raise UserError(f"{path} holds its CSV in a folder ({place}). Put it at the top level.")
    if len(names) > 1:
        others = [name for name in names if name != member.filename]
        raise UserError(
            f"{path} holds {listing(others)}; only {CODE_FOLDER} may stand beside the CSV. Take it out."
        )
    if member.flag_bits & ENCRYPTED:
        raise UserError(f"{path} is encrypted. Pack it again without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path} is packed as few can unpack. Pack it again with deflate, as zip does.")
    return member


def _refuse_what_could_leave(member: zipfile.ZipInfo, path: Path) -> None:
    """Unpacked, every member must lie below the server's folder, under the name it seems to have."""
    name = member.orig_filename
    if "\\" in name or re.fullmatch(UNSAFE_PATH, name, re.DOTALL) or not name.isprintable():
        raise UserError(
            f"{path} holds {quoted(name)}: names in a zip are relative, with /, and without '..' or control "
            "characters. Pack it again."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path} holds a link, {quoted(name)}. Pack the file itself.")


def _cells(path: Path, largest: int, most_rows: int) -> pa.Table:
    """Every cell as text; the header is the first row. Of what is too long at least one row too many.

    A plain file is read by pyarrow. What that refuses, and what it may take in another way than spreadsheets
    and servers do, is read by pandas, several times slower.
    """
    with open_csv(path, largest) as file:
        require_text(file, path)
        count_columns(file, path)
        if _is_plain(file):
            try:
                return _plain_cells(file)
            except pa.ArrowInvalid:  # to be told in the words of pandas
                pass
        file.seek(0)
        try:
            text = pd.read_csv(file, header=None, dtype=str, keep_default_na=False, nrows=most_rows + 1)
        except pd.errors.EmptyDataError:  # lines of blanks, which are none to pandas
            raise UserError(f"{path} is empty.") from None
        except pd.errors.ParserError as error:
            raise UserError(
                f"{path} is not a CSV file with rows of one length ({shortened(error, 200)})."
            ) from error
    return pa.Table.from_pandas(text.fillna(""), preserve_index=False)  # "": what a short row lacks


def _is_plain(file: BinaryIO) -> bool:
    """Whether it has columns, and none of the characters that readers of CSV files differ about."""
    file.seek(0)
    if b"," not in file.readline():
        return False
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        if block.endswith(b"\r"):
            block += file.read(1)
        if b'"' in block or block.count(b"\r") != block.count(b"\r\n"):
            return False
    return True


def _plain_cells(file: BinaryIO) -> pa.Table:
    file.seek(0)
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
