"""From the columns of a CSV file to the table every stage reads, refusing what would spoil it silently."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from cxrlt.challenges.base import Challenge, Task
from cxrlt.challenges.csv_file import CsvFile, read_csv, rows
from cxrlt.errors import UserError, listing, quoted
from cxrlt.spelling import nearest

LABELS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}
# misspelt names that are looked for: thousands of them among thousands would take minutes
MOST_HINTS = 100
# what spreadsheets and data frames make of digits; an exponent without a sign may be a hexadecimal id
NUMBER_ID = r"-?\d+\.0+|-?\d+(?:\.\d+)?[eE][+-]\d+"
# no list, table or terminal shows them as they are
CONTROL = "[\x01-\x1f\x7f-\x9f\u2028\u2029]"
LONGEST_ID = 1000
LONGEST_FILE_NAME = 255
LONG_NAME = r".*[^\\/]{256}.*"
UNSAFE_PATH = r"[\\/].*|[A-Za-z]:.*|(?:.*[\\/])?\.\.(?:[\\/].*)?"


def ids(file: CsvFile, column: str, *, where: Sequence[int] | None = None, otherwise: str = "") -> pd.Series:
    """An id column as text, of the row numbers `where` or whole.

    Raises UserError for a blank, for a line break or other control character, and for an id turned into a
    number; `otherwise` is a sentence with one more way to fix that.
    """
    values = file.text(column) if where is None else file.text(column).loc[where]
    if (blank := values == "").any():
        raise UserError(f"{file.path}, column {column!r}: no id in {rows(values, blank)}. Fill it in.")
    if (long := values.str.len() > LONGEST_ID).any():
        raise UserError(
            f"{file.path}, column {column!r}: no id has more than {LONGEST_ID:,} characters, but see "
            f"{rows(values, long)}. Is a quotation mark or a line break missing?"
        )
    _refuse_control_characters(file, column, values)
    if (number := values.str.fullmatch(NUMBER_ID)).any():
        raise UserError(
            f"{file.path}, column {column!r}: a spreadsheet has turned ids into numbers in "
            f"{rows(values, number)}. Take the original file; "
            f"if you have to save it again, import the column as text.{otherwise and f' {otherwise}'}"
        )
    return values


def _refuse_control_characters(file: CsvFile, column: str, values: pd.Series) -> None:
    if (strange := values.str.contains(CONTROL)).any():
        raise UserError(
            f"{file.path}, column {column!r}: a line break or another control character in "
            f"{rows(values, strange)}. Take it out."
        )


def paths(file: CsvFile, column: str, suffix: str = "") -> pd.Series:
    """Image paths relative to the images folder, ending in `suffix`.

    Raises UserError for one that could leave that folder, or that no file can have.
    """
    values = file.text(column)
    if (blank := values == "").any():
        raise UserError(
            f"{file.path}, column {column!r}: no image path in {rows(values, blank)}. Fill it in."
        )
    values = values + suffix
    _refuse_control_characters(file, column, values)
    lengthy = values[values.str.len() > LONGEST_FILE_NAME]
    if (long := lengthy.str.fullmatch(LONG_NAME)).any():
        raise UserError(f"{file.path}, column {column!r}: no file can be called so: {rows(lengthy, long)}.")
    if (unsafe := values.str.fullmatch(UNSAFE_PATH)).any():
        raise UserError(
            f"{file.path}, column {column!r}: image paths must lie below the images folder, without '..', "
            f"but see {rows(values, unsafe)}. Make them relative, and name the folder with --images."
        )
    return values


def labels(file: CsvFile, classes: Sequence[str], required: bool, task: Task = "multi_label") -> pd.DataFrame:
    """A float32 column of 1, 0 and NaN (blank) per class, found by name, numbered by the file's rows.

    A file without any class column is all NaN unless `required`. Raises UserError for a missing or renamed
    class, for any other value, for nothing but blanks where labels are `required`, and in a single-label task
    for a labelled row that is not one-hot.
    """
    missing = [name for name in classes if name not in file.columns]
    if missing:
        others = [name for name in file.columns if name not in classes]
        renamed = {name: near for name in missing[:MOST_HINTS] if (near := nearest(name, others))}
        if required or renamed or len(missing) < len(classes):
            raise UserError(_missing_classes(file, missing, renamed))
        return pd.DataFrame(np.float32(np.nan), file.row_numbers, list(classes), dtype=np.float32)
    matrix = np.stack([_label_column(file, name) for name in classes], axis=1)
    table = pd.DataFrame(matrix, file.row_numbers, list(classes))
    if required and np.isnan(matrix).all():
        raise UserError(
            f"{file.path}: every label is blank, so there is nothing to learn from or to score by. "
            "Is it the table without labels?"
        )
    if task == "single_label":
        _refuse_other_than_one_class(file, table)
    return table


def _refuse_other_than_one_class(file: CsvFile, table: pd.DataFrame) -> None:
    one_hot = table.notna().all(axis=1) & (table.sum(axis=1) == 1)
    wrong = table[~one_hot & table.notna().any(axis=1)]
    if len(wrong):
        found = [_row_labels(row, values) for row, values in wrong.head(10).iterrows()]
        raise UserError(
            f"{file.path}: in a single-label task a row is a 1 among 0s, or blanks only where it is not "
            f"annotated, but {len(wrong):,} of {len(table):,} rows are neither: {', '.join(found)}"
            f"{' …' if len(wrong) > len(found) else ''}. Decide for one class each, or leave such rows out."
        )


def _row_labels(row: object, values: pd.Series) -> str:
    """'row 3 (Mass, Nodule)': its positives, or what it has instead."""
    positives = listing(values.index[values == 1], 3) or "no 1"
    return f"row {row} ({positives}{', with blanks' if values.isna().any() else ''})"


def _missing_classes(file: CsvFile, missing: list[str], renamed: dict[str, str]) -> str:
    classes = f"class{'es' if len(missing) > 1 else ''} {listing(missing)}"
    sentence = f"{file.path} has no column for the {classes}{file.separated}."
    if renamed:
        pairs = listing(f"{quoted(near)} to {quoted(name)}" for name, near in renamed.items())
        sentence += f" Names are matched exactly; perhaps rename {pairs}."
    return sentence


def _label_column(file: CsvFile, name: str) -> np.ndarray:
    positions = pyarrow.compute.index_in(file.columns[name], pa.array(list(LABELS)))
    if positions.null_count:
        values = file.text(name)
        wrong = rows(values, ~values.isin(list(LABELS)))
        raise UserError(
            f"{file.path}, class {name!r}: a label is 0, 1 or blank (not annotated), but see {wrong}. "
            "Decide what such a row means and write that."
        )
    return np.array(list(LABELS.values()), np.float32)[positions.to_numpy()]


def contract_table(
    file: CsvFile,
    image_id: pd.Series,
    patient: pd.Series | None,
    study: pd.Series | None,
    view: pd.Series | None,
    path: pd.Series,
    class_labels: pd.DataFrame,
) -> pd.DataFrame:
    """One row per image (index image_id), from series that are numbered by the file's rows.

    Without patients the column is all NA, without studies each image is a study of its own. Raises UserError
    for a repeated image and for an image or a study that belongs to two patients.
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
            _refuse_two_patients(file, name, values, patient)
    if (twice := image_id.duplicated(keep=False)).any():
        raise UserError(
            f"{file.path} has more than one row for an image: {rows(image_id, twice)}. Keep one row of each."
        )
    return pd.concat([metadata, class_labels], axis=1).set_index(pd.Index(image_id, name="image_id"))


def _refuse_two_patients(file: CsvFile, name: str, values: pd.Series, patient: pd.Series) -> None:
    pairs = pd.DataFrame({"value": values, "patient": patient}).drop_duplicates()["value"]
    if not (several := pairs[pairs.duplicated()]).empty:
        where = values.isin(several)
        shown = listing(
            f"row {row} ({quoted(value)}, patient {quoted(patient[row])})"
            for row, value in values[where].items()
        )
        raise UserError(
            f"{file.path} has one {name} under two patients: {shown}. Correct the patient or the id."
        )


def template_ids(challenge: Challenge, path: Path, spec: str | None = None) -> list[str]:
    """The ids of a sample submission, in its order.

    Raises UserError for a repeated id, and for other columns than the challenge's: with the keys of the file
    `spec` that settle it, if the challenge follows from one.
    """
    file = read_csv(path)
    if file.separated:
        file.column(challenge.submission_id)
    if tuple(file.columns) != challenge.submission_columns:
        problem, fix = _other_template(challenge, list(file.columns), spec)
        fix = fix if spec else f"Take the sample submission of {challenge.name} itself."
        raise UserError(f"{path} is not a template of {challenge.name}: {problem}. {fix}")
    image_id = ids(file, challenge.submission_id)
    if (twice := image_id.duplicated(keep=False)).any():
        raise UserError(f"{path} has more than one row for an image: {rows(image_id, twice)}.")
    return image_id.tolist()


def _other_template(challenge: Challenge, found: list[str], spec: str | None) -> tuple[str, str]:
    """How a template's columns differ from the challenge's, and what settles it in `spec`."""
    id_name, wanted = challenge.submission_id, challenge.submission_columns
    strange = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    shown = listing(map(quoted, strange)) or "no other column"
    if id_name in missing and strange:
        meant = quoted(nearest(id_name, strange) or strange[0])
        return (
            f"it has no column {id_name!r} for the ids, but has {shown}",
            f"If {meant} holds the ids, write template_id: {meant} into {spec}.",
        )
    if missing or strange:
        return (
            f"it lacks {listing(map(quoted, missing)) or 'no column'} and has {shown}",
            "Call the columns of the tables as the template does, and list its classes in its order in "
            f"{spec} (classes: [...]).",
        )
    differing = [
        f"column {place} is {quoted(here)}, but should be {quoted(there)}"
        for place, (here, there) in enumerate(zip(found, wanted, strict=True), 1)
        if here != there
    ]
    fix = f"List the classes in the template's order in {spec} (classes: [...])."
    return (
        f"its columns are in another order: {listing(differing, 2)}",
        fix if found[0] == id_name else "Put the ids' column first.",
    )
