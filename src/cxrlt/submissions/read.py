"""A submission file as the text in its cells: nothing is stripped, guessed or put right."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.errors import UserError, listing

CODE_FOLDER = "code/"


@dataclass(frozen=True)
class Submission:
    """The header, and the cells below it: columns numbered, index = row numbers as in a spreadsheet."""

    header: tuple[str, ...]
    cells: pd.DataFrame

    def column(self, name: str) -> pd.Series:
        """The first column of that name, as text."""
        return self.cells[self.header.index(name)]


def read_submission(path: Path) -> Submission:
    """The CSV at `path`, or the one at the top level of the zip at `path`.

    Raises UserError if there is no such file, or if it is no CSV or no zip as servers take it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if zipfile.is_zipfile(path):
        content = _csv_in_zip(path)
    elif path.suffix.lower() == ".zip":
        raise UserError(f"{path} is not a zip file. Write it again with: cxrlt submit NAME")
    else:
        content = path.read_bytes()
    try:
        text = pd.read_csv(io.BytesIO(content), header=None, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file with rows of one length ({error}).") from error
    text = text.fillna("")  # what a short row lacks
    cells = text.iloc[1:].set_axis(pd.RangeIndex(2, len(text) + 1))
    return Submission(tuple(text.iloc[0]), cells)


def _csv_in_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
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
        try:
            return archive.read(csvs[0])
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{path} cannot be unpacked ({error}). Write it again.") from error
