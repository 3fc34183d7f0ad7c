"""The stage `cxrlt validate`: check that the server would accept a file and score the right values."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing, quoted
from cxrlt.metrics import METRICS
from cxrlt.spelling import closest_match, other_spellings
from cxrlt.submissions.read import Submission, is_zip, read_submission

BLANK = ("", "nan", "na", "n/a", "<na>", "null", "none")
"""Cells that mean "no value", in lower case."""
N_EXTRA_ROWS = 1000
"""Rows that are read beyond twice the template's, so that extra rows can be named."""
N_EXTRA_BYTES = 1 << 16
"""Bytes that any submission may have, on top of the limit by rows and columns."""
MAX_CELL_BYTES = 64
"""A probability has at most about 20 digits."""
MAX_MISSING_COLUMNS = 10
"""Missing columns that get a sentence each; further ones are listed together."""
LOGIT_SHARE = 0.1
"""If a larger share of the cells is below 0, the values are logits and not a few wrong probabilities."""


def validate(path: Path, challenge: Challenge, split: str, workspace: Workspace) -> str:
    """Return one line if the file at `path` is valid. Raises UserError with a sentence per problem."""
    ids = challenge.template(split, workspace.inputs_dir(challenge.name))
    problems = validate_submission(path, challenge, ids)
    if problems:
        raise UserError(f"{path} is not a valid submission:" + "".join(f"\n  - {item}" for item in problems))
    container = "zip" if is_zip(path) else "csv"
    note = "" if container == challenge.container else f"; the server expects a {challenge.container} file"
    shape = f"{len(ids):,} rows, {len(challenge.classes)} classes"
    return f"{path}: valid for {challenge.name} {split} ({shape}){note}"


def validate_submission(path: Path, challenge: Challenge, ids: Sequence[str]) -> list[str]:
    """Return the problems of the file at `path` (CSV or zip), a sentence each; [] if it is valid.

    `ids` are the template's. The rows must have the same order: competition sites require it, and a server
    that matches rows by position would score another order without an error.
    """
    try:
        max_bytes = max_submission_bytes(challenge, ids)
        submission = read_submission(path, max_bytes, N_EXTRA_ROWS + 2 * len(ids))
    except UserError as error:
        return [str(error)]
    problems = _column_problems(submission.header, challenge.submission_columns)
    if not len(submission.row_numbers):
        return [*problems, "It has no rows below the header."]
    header, id_name = submission.header, challenge.submission_id
    problems += _row_problems(submission.column(id_name if id_name in header else header[0]), ids)
    found = [name for name in challenge.classes if name in header]
    if found:
        problems += _value_problems(found, submission, challenge)
    return problems


def max_submission_bytes(challenge: Challenge, ids: Sequence[str]) -> int:
    """Return the size limit of a CSV for these ids: several times what any program writes."""
    header = sum(len(name.encode()) for name in challenge.submission_columns)
    cells = (len(ids) + 1) * len(challenge.submission_columns)
    return N_EXTRA_BYTES + MAX_CELL_BYTES * cells + 2 * (header + sum(len(image.encode()) for image in ids))


def _column_problems(header: Sequence[str], expected: Sequence[str]) -> list[str]:
    separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if separator:
        return [f"Its columns are separated by {separator!r}. Save it with commas."]
    missing = [name for name in expected if name not in header]
    extra = [name for name in header if name not in expected]
    twice = [name for name, count in Counter(header).items() if count > 1]
    problems = [_missing_column(name, header, expected, extra) for name in missing[:MAX_MISSING_COLUMNS]]
    if further := missing[MAX_MISSING_COLUMNS:]:
        problems.append(f"More missing columns: {listing(map(quoted, further))}.")
    if extra:
        problems.append(f"Columns that the template does not have: {listing(map(quoted, extra))}.")
    if twice:
        problems.append(f"Duplicate columns: {listing(map(quoted, twice))}.")
    if not problems and tuple(header) != tuple(expected):
        place = next(i for i, name in enumerate(expected) if header[i] != name)
        problems.append(
            "The order of the columns differs from the template's: "
            f"column {place + 1} is {quoted(header[place])} but should be {expected[place]!r}."
        )
    return problems


def _missing_column(name: str, header: Sequence[str], expected: Sequence[str], extra: Sequence[str]) -> str:
    """Return the message for a missing column; suggests an extra column by spelling, else by position."""
    i = expected.index(name)
    same_place = header[i] if len(header) == len(expected) and header[i] in extra else None
    meant = closest_match(name, extra) or same_place
    return f"There is no column {name!r}" + (f"; did you mean {quoted(meant)}?" if meant else ".")


def _row_problems(found: pd.Series, ids: Sequence[str]) -> list[str]:
    template = pd.Index(ids)
    here = pd.Index(found)
    if here.equals(template) and here.is_unique:
        return []
    twice = here[here.duplicated()].unique()
    extra = here.unique().difference(template, sort=False)
    missing = template.difference(here, sort=False)
    problems = [
        f"{len(wrong):,} {'id' if len(wrong) == 1 else 'ids'} {what}: {listing(wrong)}."
        f"{other_spellings(wrong, extra) if wrong is missing else ''}"
        for wrong, what in (
            (missing, "of the template missing"),
            (extra, "not in the template"),
            (twice, "duplicated"),
        )
        if len(wrong)
    ]
    if not problems and not here.equals(template):
        place = int(np.argmax(here != template))
        problems.append(
            "The order of the rows differs from the template's: "
            f"row {found.index[place]} is {quoted(here[place])} but should be {quoted(template[place])}."
        )
    return problems


def _value_problems(classes: Sequence[str], submission: Submission, challenge: Challenge) -> list[str]:
    values = submission.numbers(classes)
    not_numbers = np.isnan(values)
    blank = _blank(not_numbers, submission, classes)
    infinite = np.isinf(values)
    outside = np.isfinite(values) & ((values < 0) | (values > 1))
    logits = (values < 0).mean() > LOGIT_SHARE
    last = "softmax" if challenge.task == "single_label" else "sigmoid"
    cells = (
        (not_numbers & ~blank, "Text instead of a number"),
        (blank, "No probability"),
        (infinite, "Infinite values"),
        (outside, f"These look like logits (apply a {last})" if logits else "Values outside [0, 1]"),
    )
    problems = [f"{what}: {_list_cells(mask, submission, classes)}." for mask, what in cells if mask.any()]
    if METRICS[challenge.metric].kind == "decisions":
        return problems + _degenerate_rows(values)
    return problems + _degenerate_columns(classes, values)


def _blank(not_numbers: np.ndarray, submission: Submission, classes: Sequence[str]) -> np.ndarray:
    """Return which of the cells that are not numbers are blank, or a word for a missing value."""
    blank = np.zeros_like(not_numbers)
    for name, where, found in zip(classes, not_numbers.T, blank.T, strict=True):
        if where.any():
            found[where] = [cell.strip().casefold() in BLANK for cell in submission.column(name)[where]]
    return blank


def _degenerate_rows(values: np.ndarray) -> list[str]:
    """Check for identical rows. Where the row's highest value decides, a constant column is legal."""
    if len(values) > 1 and np.isfinite(values).all() and (values == values[0]).all():
        return ["All rows have the same values, so one class is predicted for all of them."]
    return []


def _degenerate_columns(classes: Sequence[str], values: np.ndarray) -> list[str]:
    finite = [column[np.isfinite(column)] for column in values.T]
    constant = [len(column) > 1 and column.min() == column.max() for column in finite]
    binary = [np.isin(column, (0, 1)).all() and len(column) > 1 for column in finite]
    problems = []
    if any(constant):
        names = [name for name, yes in zip(classes, constant, strict=True) if yes]
        problems.append(f"Every row has the same value, so nothing can be ranked: {listing(names)}.")
    thresholded = [n for n, b, c in zip(classes, binary, constant, strict=True) if b and not c]
    if thresholded:
        problems.append(
            "Only 0 and 1, but the metric ranks probabilities "
            f"(submit them without a threshold): {listing(thresholded)}."
        )
    return problems


def _list_cells(mask: np.ndarray, submission: Submission, classes: Sequence[str], limit: int = 10) -> str:
    """Return text such as "row 2, Mass ('x'), …": the first cells where `mask` is true, and their count."""
    rows = np.flatnonzero(mask.any(axis=1))[:limit]
    first = [(rows[place], classes[column]) for place, column in np.argwhere(mask[rows])[:limit]]
    cells = ((row + 2, name, quoted(submission.column(name)[row + 2])) for row, name in first)
    shown = ", ".join(f"row {row}, {name} ({cell})" for row, name, cell in cells)
    count = np.count_nonzero(mask)
    return shown if count <= limit else f"{shown} … ({count:,} in all)"
