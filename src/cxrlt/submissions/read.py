"""Read submission files as text, cell by cell: nothing is stripped, guessed or corrected."""

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
from cxrlt.challenges.csv_file import MAX_ROWS, MAX_TABLE_BYTES
from cxrlt.errors import UserError, listing, quoted, shortened
from cxrlt.system.user_files import count_columns, require_file, require_text

CODE_FOLDER = "code/"
BLOCK_BYTES = 1 << 20
"""Bytes per read."""
MAX_ZIP_BYTES = 1 << 36
"""Size limit of a zip with code and perhaps weights; only its CSV is read."""
MAX_ZIP_DIRECTORY_BYTES = 1 << 22
"""Size limit of the list of names in a zip, because zipfile needs about 20 times as much memory for it."""
ENCRYPTED_FLAG = 1
"""Bit of a zip member's flags."""
MISSING_FILE_HINT = "Give a file that cxrlt submit wrote, or another file in the same format."
# what Python and pandas accept as a number; possessive quantifiers, so that a long cell is scanned only once
NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d++\.?\d*+|\.\d++)(?:e[+-]?\d++)?|inf(?:inity)?|nan)\s*", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class Submission:
    """A submission as text: the header, and one column of cells for each of its names."""

    header: tuple[str, ...]
    columns: tuple[pa.ChunkedArray, ...]

    @property
    def row_numbers(self) -> pd.RangeIndex:
        """Row numbers as in a spreadsheet, where the header is row 1."""
        return pd.RangeIndex(2, len(self.columns[0]) + 2)

    def column(self, name: str) -> pd.Series:
        """Return the first column of this name as text, indexed by row number."""
        return self._column(name).to_pandas().set_axis(self.row_numbers)

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Return the columns `names` as float64 (n_rows, n_names); NaN if a cell is not a number."""
        values = np.empty((len(names), len(self.row_numbers)))
        for row, name in zip(values, names, strict=True):
            try:
                row[:] = pyarrow.compute.cast(self._column(name), pa.float64())
            except pa.ArrowInvalid:  # a cell is not a number, or has spaces around it
                cells = self._column(name).to_pylist()
                row[:] = [float(cell) if NUMBER.fullmatch(cell) else np.nan for cell in cells]
        return values.T

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.columns[self.header.index(name)]


def read_submission(path: Path, max_bytes: int = MAX_TABLE_BYTES, max_rows: int = MAX_ROWS) -> Submission:
    """Read the CSV at `path`, or the CSV at the top level of the zip at `path`.

    Raises UserError if the file is missing, if it is not a CSV or a zip that servers accept, or if the CSV
    has more than `max_bytes` bytes (a larger zip member is not unpacked) or more than `max_rows` rows.
    """
    table = _read_cells(path, max_bytes, max_rows + 1)
    if table.num_rows > max_rows + 1:
        raise UserError(f"{path} has more than {max_rows:,} rows. Is this the right file?")
    header = tuple(column[0].as_py() for column in table.columns)
    return Submission(header, tuple(column.slice(1) for column in table.columns))


def is_zip(path: Path) -> bool:
    """Return whether the content of the file is a zip archive."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # part of a multi-disk archive
        return True


@contextmanager
def open_csv(path: Path, max_bytes: int = MAX_TABLE_BYTES) -> Iterator[BinaryIO]:
    """Open the CSV at `path`, or the CSV at the top level of the zip at `path`, as bytes.

    Raises UserError as `read_submission` does.
    """
    require_file(path, MISSING_FILE_HINT, MAX_ZIP_BYTES)
    packed = is_zip(path)
    if packed and path.suffix.lower() == ".csv":
        raise UserError(f"{path} is a zip file. Rename it to .zip.")
    if packed:
        yield io.BytesIO(_unpack(path, max_bytes))
        return
    if path.suffix.lower() == ".zip":
        raise UserError(f"{path} is not a zip file. Create it again with: cxrlt submit NAME")
    require_file(path, MISSING_FILE_HINT, max_bytes)
    with path.open("rb") as file:
        yield file


class _LimitedZipFile(io.FileIO):
    """A zip on disk that refuses large reads, because zipfile reads the list of names at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_ZIP_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"more than {MAX_ZIP_DIRECTORY_BYTES:,} bytes of file names")
        return super().read(size)


def _unpack(path: Path, max_bytes: int) -> bytes:
    """Return the content of the CSV in the zip, with its checksum verified."""
    try:
        with _LimitedZipFile(path) as file, zipfile.ZipFile(file) as archive:
            member = _csv_in_zip(archive, path)
            if member.file_size > max_bytes:
                raise UserError(
                    f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; the limit is "
                    f"{max_bytes:,}. Is this the right file?"
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
        raise UserError(f"{path} cannot be unpacked ({shortened(error, 200)}). Create it again.") from error


def _csv_in_zip(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    for member in archive.infolist():
        _refuse_unsafe_member(member, path)
    members = [member for member in archive.infolist() if not member.filename.startswith(CODE_FOLDER)]
    names = [member.filename for member in members]
    csvs = [member for member in members if member.filename.lower().endswith(".csv")]
    if not csvs:
        raise UserError(f"{path} has no CSV. It contains: {listing(names) or 'nothing'}.")
    if len(csvs) > 1:
        raise UserError(f"{path} has more than one CSV: {listing(c.filename for c in csvs)}. Keep one.")
    [member] = csvs
    if "/" in member.filename:
        name = shortened(member.filename)
        raise UserError(f"{path} has its CSV in a folder ({name}). Put it at the top level.")
    if len(names) > 1:
        others = [name for name in names if name != member.filename]
        raise UserError(
            f"{path} contains {listing(others)}; only {CODE_FOLDER} is allowed next to the CSV. Remove it."
        )
    if member.flag_bits & ENCRYPTED_FLAG:
        raise UserError(f"{path} is encrypted. Zip it again without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{path} uses a compression method that many programs cannot unpack. Zip it again with deflate."
        )
    return member


def _refuse_unsafe_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Raise UserError for a member that could be unpacked outside the folder or under another name."""
    name = member.orig_filename
    if "\\" in name or re.fullmatch(UNSAFE_PATH, name, re.DOTALL) or not name.isprintable():
        raise UserError(
            f"{path} contains {quoted(name)}. Names in a zip must be relative, with /, and without '..' or "
            "control characters. Zip it again."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path} contains a link, {quoted(name)}. Zip the file itself.")


def _read_cells(path: Path, max_bytes: int, max_rows: int) -> pa.Table:
    """Read every cell as text; the header is the first row. Reading stops after `max_rows` + 1 rows or later.

    Plain files are read by pyarrow. Files that pyarrow refuses, or may read differently from spreadsheets and
    servers, are read by pandas, several times slower.
    """
    with open_csv(path, max_bytes) as file:
        require_text(file, path)
        count_columns(file, path)
        if _is_plain(file):
            try:
                return _read_plain_cells(file)
            except pa.ArrowInvalid:  # pandas has the better error message
                pass
        file.seek(0)
        try:
            text = pd.read_csv(file, header=None, dtype=str, keep_default_na=False, nrows=max_rows + 1)
        except pd.errors.EmptyDataError:  # only blank lines
            raise UserError(f"{path} is empty.") from None
        except pd.errors.ParserError as error:
            raise UserError(
                f"{path} is not a CSV file with rows of equal length ({shortened(error, 200)})."
            ) from error
    return pa.Table.from_pandas(
        text.fillna(""), preserve_index=False
    )  # "" for the missing cells of a short row


def _is_plain(file: BinaryIO) -> bool:
    """Return whether the file has several columns, and no characters that CSV readers treat differently."""
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


def _read_plain_cells(file: BinaryIO) -> pa.Table:
    file.seek(0)
    n_columns = file.readline().count(b",") + 1
    file.seek(0)
    return pyarrow.csv.read_csv(
        file,
        # one thread: two threads need the same time and twice the memory
        read_options=pyarrow.csv.ReadOptions(use_threads=False, autogenerate_column_names=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={f"f{i}": pa.string() for i in range(n_columns)}, strings_can_be_null=False
        ),
    )
