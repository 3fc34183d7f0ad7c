"""Read the first sheet of a spreadsheet (xlsx) as text columns, with openpyxl, which is optional."""

import zipfile
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cxrlt.challenges.csv_file import (
    DOWNLOAD_HINT,
    MAX_ROWS,
    MAX_TABLE_BYTES,
    CsvFile,
    make_csv_file,
    read_csv,
)
from cxrlt.errors import UserError, quoted, shortened
from cxrlt.system.user_files import require_file


def read_spreadsheet(path: Path) -> CsvFile:
    """Return the cells of a CSV file, or of the first sheet of an xlsx file, as stripped text.

    Raises MissingFileError, or UserError as `read_csv`, for a damaged spreadsheet, and without openpyxl.
    """
    if path.suffix.lower() != ".xlsx":
        return read_csv(path)
    require_file(path, DOWNLOAD_HINT, MAX_TABLE_BYTES)
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"{path} is empty. If it is truncated, download it again.")
    columns = list(zip(*rows, strict=True))
    names = [f"f{place}" for place in range(len(columns))]
    return make_csv_file(path, pa.table([pa.array(cells, pa.string()) for cells in columns], names))


def _read_rows(path: Path) -> list[list[str]]:
    """Return the rows of the first sheet that are not blank, all of the same length."""
    try:
        import openpyxl
    except ImportError:
        name = quoted(path.with_suffix(".csv").name)
        raise UserError(
            f"{path} needs openpyxl: pip install openpyxl. Or save it as CSV UTF-8 beside it: {name}."
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_TABLE_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes; at most {MAX_TABLE_BYTES:,} are allowed")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        found = book.worksheets[0].iter_rows(values_only=True)
        rows = [["" if cell is None else str(cell) for cell in row] for row in islice(found, MAX_ROWS + 2)]
        book.close()
    except Exception as error:  # openpyxl has no error class for damaged files
        raise UserError(
            f"{path} cannot be read as a spreadsheet ({shortened(error, 200)}). If it was truncated, "
            "download it again."
        ) from error
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows if any(row)]
