"""Build the table that every stage reads from the columns of a CSV file, with strict checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from cxrlt.challenges.base import Challenge, Task
from cxrlt.challenges.csv_file import CsvFile, describe_rows, read_csv
from cxrlt.errors import UserError, listing, quoted
from cxrlt.spelling import closest_match

PandasData = TypeVar("PandasData", pd.Series, pd.DataFrame)
LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}
MAX_SUGGESTIONS = 100
"""Number of unknown names that get a suggestion: comparing thousands with thousands takes minutes."""
NUMERIC_ID = r"-?\d+\.0+|-?\d+(?:\.\d+)?[eE][+-]\d+"
"""Ids that a spreadsheet or pandas has turned into floats. 1e5 without a sign can be a hexadecimal id."""
CONTROL_CHARACTERS = "[\x01-\x1f\x7f-\x9f\u2028\u2029]"
"""Characters that lists, tables and terminals cannot show."""
MAX_ID_CHARS = 1000
"""Longer ids mean a wrong quotation mark: DICOM UIDs have at most 64 characters."""
MAX_FILE_NAME_CHARS = 255
"""The limit of common file systems."""
LONG_FILE_NAME = r".*[^\\/]{256}.*"
UNSAFE_PATH = r"[\\/].*|[A-Za-z]:.*|(?:.*[\\/])?\.\.(?:[\\/].*)?"


def read_ids(
    file: CsvFile, column: str, *, row_numbers: list[int] | None = None, hint: str = ""
) -> pd.Series:
    """Return an id column as text, indexed by row number: all rows or those of `row_numbers`.

    Raises UserError for a blank, an id that is too long, a control character, and an id that was turned into
    a number; `hint` is a sentence with another way to fix the last.
    """
    values = file.text(column) if row_numbers is None else file.text(column).loc[row_numbers]
    if (blank := values == "").any():
        raise UserError(
            f"{file.path}, column {column!r}: no id in {describe_rows(values, blank)}. Fill it in."
        )
    if (long := values.str.len() > MAX_ID_CHARS).any():
        raise UserError(
            f"{file.path}, column {column!r}: an id has more than {MAX_ID_CHARS:,} characters: "
            f"{describe_rows(values, long)}. Is a quotation mark or a line break missing?"
        )
    _reject_control_characters(file, column, values)
    if (number := values.str.fullmatch(NUMERIC_ID)).any():
        raise UserError(
            f"{file.path}, column {column!r}: a spreadsheet has turned ids into numbers in "
            f"{describe_rows(values, number)}. Use the original file; "
            f"if you must save it again, import the column as text.{hint and f' {hint}'}"
        )
    return values


def _reject_control_characters(file: CsvFile, column: str, values: pd.Series) -> None:
    if (strange := values.str.contains(CONTROL_CHARACTERS)).any():
        raise UserError(
            f"{file.path}, column {column!r}: a line break or another control character in "
            f"{describe_rows(values, strange)}. Remove it."
        )


def read_paths(file: CsvFile, column: str, suffix: str = "") -> pd.Series:
    """Return image paths relative to the images folder, with `suffix` added, indexed by row number.

    Raises UserError for a path that could leave that folder or is not a valid file name.
    """
    values = file.text(column)
    if (blank := values == "").any():
        raise UserError(
            f"{file.path}, column {column!r}: no image path in {describe_rows(values, blank)}. Fill it in."
        )
    values = values + suffix
    _reject_control_characters(file, column, values)
    lengthy = values[values.str.len() > MAX_FILE_NAME_CHARS]
    if (long := lengthy.str.fullmatch(LONG_FILE_NAME)).any():
        raise UserError(
            f"{file.path}, column {column!r}: not a valid file name: {describe_rows(lengthy, long)}."
        )
    if (unsafe := values.str.fullmatch(UNSAFE_PATH)).any():
        raise UserError(
            f"{file.path}, column {column!r}: image paths must be inside the images folder, without '..': "
            f"{describe_rows(values, unsafe)}. Make them relative, and set the folder with --images."
        )
    return values


def read_labels(
    file: CsvFile, classes: Sequence[str], required: bool, task: Task = "multi_label"
) -> pd.DataFrame:
    """Return one float32 column of 1, 0 and NaN (blank) per class, indexed by row number.

    Without any class column and with `required` off, all labels are NaN. Raises UserError for a missing or
    renamed class, for any other value, if `required` labels are all blank, and for a labelled row of a
    single-label task that is not one-hot.
    """
    missing = [name for name in classes if name not in file.columns]
    if missing:
        others = [name for name in file.columns if name not in classes]
        renamed = {
            name: match for name in missing[:MAX_SUGGESTIONS] if (match := closest_match(name, others))
        }
        if required or renamed or len(missing) < len(classes):
            raise UserError(_missing_classes(file, missing, renamed))
        return pd.DataFrame(np.float32(np.nan), file.row_numbers, list(classes), dtype=np.float32)
    matrix = np.stack([_label_column(file, name) for name in classes], axis=1)
    table = pd.DataFrame(matrix, file.row_numbers, list(classes))
    if required and np.isnan(matrix).all():
        raise UserError(
            f"{file.path}: every label is blank, so it cannot be used for training or scoring. "
            "Is it the table without labels?"
        )
    if task == "single_label":
        require_one_hot(file, table)
    return table


def read_class_column(file: CsvFile, column: str, class_of: Mapping[str, str]) -> pd.DataFrame:
    """Return one-hot float32 labels, indexed by row number, from a column with one name per row.

    `class_of` is the class by name; the result has its classes in this order. Raises UserError for any other
    name.
    """
    values = file.text(column)
    if (unknown := ~values.isin(list(class_of))).any():
        raise UserError(
            f"{file.path}, column {column!r}: {describe_rows(values, unknown)} is none of "
            f"{listing(class_of, len(class_of))}. Correct these cells."
        )
    classes = list(dict.fromkeys(class_of.values()))
    found = values.map(class_of).to_numpy()
    return pd.DataFrame({name: (found == name).astype(np.float32) for name in classes}, values.index)


def require_one_hot(file: CsvFile, table: pd.DataFrame) -> None:
    """Raise UserError for labels (indexed by row number) that are neither one-hot nor all NaN in a row."""
    one_hot = table.notna().all(axis=1) & (table.sum(axis=1) == 1)
    wrong = table[~one_hot & table.notna().any(axis=1)]
    if len(wrong):
        found = [_row_labels(row, values) for row, values in wrong.head(10).iterrows()]
        raise UserError(
            f"{file.path}: in a single-label task each row must have one 1 and 0s, or only blanks (not "
            f"annotated), but {len(wrong):,} of {len(table):,} rows do not: {', '.join(found)}"
            f"{' …' if len(wrong) > len(found) else ''}. Choose one class for each row, or remove these rows."
        )


def _row_labels(row: object, values: pd.Series) -> str:
    """Return 'row 3 (Mass, Nodule)', with the positives of the row."""
    positives = listing(values.index[values == 1], 3) or "no 1"
    return f"row {row} ({positives}{', with blanks' if values.isna().any() else ''})"


def _missing_classes(file: CsvFile, missing: list[str], renamed: dict[str, str]) -> str:
    classes = f"class{'es' if len(missing) > 1 else ''} {listing(missing)}"
    sentence = f"{file.path} has no column for the {classes}{file.separator_hint}."
    if renamed:
        pairs = listing(f"{quoted(match)} to {quoted(name)}" for name, match in renamed.items())
        sentence += f" Names must match exactly. If these are the same classes, rename {pairs}."
    return sentence


def _label_column(file: CsvFile, name: str) -> np.ndarray:
    positions = pyarrow.compute.index_in(file.columns[name], pa.array(list(LABELS)))
    if positions.null_count:
        values = file.text(name)
        wrong = describe_rows(values, ~values.isin(list(LABELS)))
        raise UserError(
            f"{file.path}, class {name!r}: a label must be 0, 1 or blank (not annotated), but see {wrong}. "
            "Correct these cells."
        )
    return np.array(list(LABELS.values()), np.float32)[positions.to_numpy()]


def build_table(
    file: CsvFile,
    image_id: pd.Series,
    patient: pd.Series | None,
    study: pd.Series | None,
    view: pd.Series | None,
    path: pd.Series,
    class_labels: pd.DataFrame,
) -> pd.DataFrame:
    """Return the table of a split: index image_id; patient, study, view, path and one column per class.

    All arguments are indexed by row number. Without `patient` the column is all NA; without `study` each
    image is its own study. Raises UserError for a repeated image, and for an image or a study of two
    patients.
    """
    metadata = pd.DataFrame(
        {
            "patient": pd.Series(pd.NA, image_id.index, dtype="string") if patient is None else patient,
            "study": image_id if study is None else study,
            "view": "unknown" if view is None else view,
            "path": path,
        }
    )
    if patient is not None:
        for name, values in (("image", image_id), ("image file", path), ("study", metadata["study"])):
            _require_one_patient(file, name, values, patient)
    return by_image(file, image_id, pd.concat([metadata, class_labels], axis=1))


def by_image(file: CsvFile, image_id: pd.Series, values: PandasData) -> PandasData:
    """Return `values` with the images of their rows as index. Raises UserError for an image in two rows."""
    if (twice := image_id.duplicated(keep=False)).any():
        raise UserError(
            f"{file.path} has more than one row for an image: {describe_rows(image_id, twice)}. "
            "Keep one row of each."
        )
    return values.set_axis(pd.Index(image_id, name="image_id"))


def _require_one_patient(file: CsvFile, name: str, values: pd.Series, patient: pd.Series) -> None:
    pairs = pd.DataFrame({"value": values, "patient": patient}).drop_duplicates()["value"]
    if not (several := pairs[pairs.duplicated()]).empty:
        where = values.isin(several)
        shown = listing(
            f"row {row} ({quoted(value)}, patient {quoted(other)})"
            for row, value, other in zip(values.index[where], values[where], patient[where], strict=True)
        )
        raise UserError(
            f"{file.path} has the same {name} for two patients: {shown}. Correct the patient or the id."
        )


def read_template_ids(challenge: Challenge, path: Path, spec: str | None = None) -> list[str]:
    """Return the ids of a sample submission, in file order.

    Raises UserError for a repeated id, and if the columns are not those of the challenge. For a challenge
    that is defined by the file `spec`, the error names the keys to change there.
    """
    file = read_csv(path)
    if file.separator_hint:
        file.column(challenge.submission_id)
    if tuple(file.columns) != challenge.submission_columns:
        problem, fix = _explain_wrong_columns(challenge, list(file.columns), spec)
        fix = fix if spec else f"Use the sample submission of {challenge.name}."
        raise UserError(f"{path} is not a template of {challenge.name}: {problem}. {fix}")
    image_id = read_ids(file, challenge.submission_id)
    if (twice := image_id.duplicated(keep=False)).any():
        raise UserError(f"{path} has more than one row for an image: {describe_rows(image_id, twice)}.")
    return image_id.tolist()


def _explain_wrong_columns(challenge: Challenge, found: list[str], spec: str | None) -> tuple[str, str]:
    """Return how the columns of a template differ from those of the challenge, and how to fix `spec`."""
    id_name, wanted = challenge.submission_id, challenge.submission_columns
    strange = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    shown = listing(map(quoted, strange)) or "no other column"
    if id_name in missing and strange:
        column = quoted(closest_match(id_name, strange) or strange[0])
        return (
            f"it has no column {id_name!r} for the ids, but has {shown}",
            f"If {column} contains the ids, add template_id: {column} to {spec}.",
        )
    if missing or strange:
        return (
            f"it lacks {listing(map(quoted, missing)) or 'no column'} and has {shown}",
            "Name the columns of the tables as in the template, and list its classes in its order in "
            f"{spec} (classes: [...]).",
        )
    differing = [
        f"column {place} is {quoted(here)}, but should be {quoted(there)}"
        for place, (here, there) in enumerate(zip(found, wanted, strict=True), 1)
        if here != there
    ]
    fix = f"List the classes in {spec} in the order of the template (classes: [...])."
    return (
        f"its columns are in another order: {listing(differing, 2)}",
        fix if found[0] == id_name else "Move the id column to the first place.",
    )
