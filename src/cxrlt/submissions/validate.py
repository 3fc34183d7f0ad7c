"""The stage `cxrlt validate`: would the server accept this file, and would it mean what it should?"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing, quoted
from cxrlt.metrics import METRICS
from cxrlt.spelling import nearest, other_spellings
from cxrlt.submissions.read import Submission, is_zip, read_submission

BLANK = ("", "nan", "na", "n/a", "<na>", "null", "none")
SPARE_ROWS = 1000
SPARE_BYTES = 1 << 16
CELL_BYTES = 64
"""A probability has some 20 digits at most."""
MOST_NAMED = 10
"""Missing columns with a sentence each."""
LOGIT_SHARE = 0.1
"""With more cells below 0 than this, a file holds logits rather than a few probabilities gone wrong."""


def validate(path: Path, challenge: Challenge, split: str, workspace: Workspace) -> str:
    """One line if the file at `path` is valid. Raises UserError with a sentence per problem."""
    ids = challenge.template(split, workspace.inputs_dir(challenge.name))
    problems = validate_submission(path, challenge, ids)
    if problems:
        raise UserError(f"{path} is not a valid submission:" + "".join(f"\n  - {item}" for item in problems))
    container = "zip" if is_zip(path) else "csv"
    note = "" if container == challenge.container else f"; the server takes a {challenge.container} file"
    shape = f"{len(ids):,} rows, {len(challenge.classes)} classes"
    return f"{path}: valid for {challenge.name} {split} ({shape}){note}"


def validate_submission(path: Path, challenge: Challenge, ids: Sequence[str]) -> list[str]:
    """Every problem of the file at `path` (CSV or zip), a sentence each; none if it is valid.

    `ids` are those of the template. Rows must stand in their order: the sites ask for it, and a server that
    goes by position would score another order without an error.
    """
    try:
        submission = read_submission(path, largest_submission(challenge, ids), SPARE_ROWS + 2 * len(ids))
    except UserError as error:
        return [str(error)]
    problems = _column_problems(submission.header, challenge.submission_columns)
    if not len(submission.row_numbers):
        return [*problems, "There are no rows below the header."]
    header, id_name = submission.header, challenge.submission_id
    problems += _row_problems(submission.column(id_name if id_name in header else header[0]), ids)
    found = [name for name in challenge.classes if name in header]
    if found:
        problems += _value_problems(found, submission, challenge)
    return problems


def largest_submission(challenge: Challenge, ids: Sequence[str]) -> int:
    """The bytes that a CSV for these ids may have: several times what any program writes."""
    header = sum(len(name.encode()) for name in challenge.submission_columns)
    cells = (len(ids) + 1) * len(challenge.submission_columns)
    return SPARE_BYTES + CELL_BYTES * cells + 2 * (header + sum(len(image.encode()) for image in ids))


def _column_problems(header: Sequence[str], expected: Sequence[str]) -> list[str]:
    separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if separator:
        return [f"Its columns are separated by {separator!r}; save it with commas."]
    missing = [name for name in expected if name not in header]
    extra = [name for name in header if name not in expected]
    twice = [name for name, count in Counter(header).items() if count > 1]
    problems = [_missing_column(name, header, expected, extra) for name in missing[:MOST_NAMED]]
    if further := missing[MOST_NAMED:]:
        problems.append(f"Nor is there a column {listing(map(quoted, further))}.")
    if extra:
        problems.append(f"Columns that the template does not have: {listing(map(quoted, extra))}.")
    if twice:
        problems.append(f"Columns that stand there more than once: {listing(map(quoted, twice))}.")
    if not problems and tuple(header) != tuple(expected):
        place = next(i for i, name in enumerate(expected) if header[i] != name)
        problems.append(
            "The columns are in another order than the template's: "
            f"column {place + 1} is {quoted(header[place])}, but should be {expected[place]!r}."
        )
    return problems


def _missing_column(name: str, header: Sequence[str], expected: Sequence[str], extra: Sequence[str]) -> str:
    """A renamed class is guessed by its spelling or, if that is another word, by its place."""
    place = expected.index(name)
    there = header[place] if len(header) == len(expected) and header[place] in extra else None
    meant = nearest(name, extra) or there
    return f"There is no column {name!r}" + (f"; perhaps {quoted(meant)} is meant." if meant else ".")


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
            (twice, "more than once"),
        )
        if len(wrong)
    ]
    if not problems and not here.equals(template):
        place = int(np.argmax(here != template))
        problems.append(
            "The rows are in another order than the template's: "
            f"row {found.index[place]} is {quoted(here[place])}, but should be {quoted(template[place])}."
        )
    return problems


def _value_problems(classes: Sequence[str], submission: Submission, challenge: Challenge) -> list[str]:
    values = submission.numbers(classes)
    no_number = np.isnan(values)
    blank = _blank(no_number, submission, classes)
    infinite = np.isinf(values)
    outside = np.isfinite(values) & ((values < 0) | (values > 1))
    logits = (values < 0).mean() > LOGIT_SHARE
    last = "softmax" if challenge.task == "single_label" else "sigmoid"
    cells = (
        (no_number & ~blank, "Text in place of a number"),
        (blank, "No probability"),
        (infinite, "Infinite values"),
        (outside, f"These look like logits (apply a {last})" if logits else "Values outside [0, 1]"),
    )
    problems = [f"{what}: {_cells(mask, submission, classes)}." for mask, what in cells if mask.any()]
    if METRICS[challenge.metric].kind == "decisions":
        return problems + _degenerate_rows(values)
    return problems + _degenerate_columns(classes, values)


def _blank(no_number: np.ndarray, submission: Submission, classes: Sequence[str]) -> np.ndarray:
    """Which of the cells that are no number hold nothing, or a word for it."""
    blank = np.zeros_like(no_number)
    for name, where, found in zip(classes, no_number.T, blank.T, strict=True):
        if where.any():
            found[where] = [cell.strip().casefold() in BLANK for cell in submission.column(name)[where]]
    return blank


def _degenerate_rows(values: np.ndarray) -> list[str]:
    """Where the highest value of a row decides, a class may well be 0 or 1 throughout, but no whole file."""
    if len(values) > 1 and np.isfinite(values).all() and (values == values[0]).all():
        return ["Every row holds the same values, which predicts one class for all of them."]
    return []


def _degenerate_columns(classes: Sequence[str], values: np.ndarray) -> list[str]:
    finite = [column[np.isfinite(column)] for column in values.T]
    constant = [len(column) > 1 and column.min() == column.max() for column in finite]
    binary = [np.isin(column, (0, 1)).all() and len(column) > 1 for column in finite]
    problems = []
    if any(constant):
        names = [name for name, yes in zip(classes, constant, strict=True) if yes]
        problems.append(f"The same value in every row, which ranks nothing: {listing(names)}.")
    thresholded = [n for n, b, c in zip(classes, binary, constant, strict=True) if b and not c]
    if thresholded:
        problems.append(
            "Only 0 and 1, where the metric ranks probabilities "
            f"(submit them before any threshold): {listing(thresholded)}."
        )
    return problems


def _cells(mask: np.ndarray, submission: Submission, classes: Sequence[str], limit: int = 10) -> str:
    """'row 2, Mass ('x'), …': the first cells where `mask` holds, and the count when some are left out."""
    rows = np.flatnonzero(mask.any(axis=1))[:limit]
    first = [(rows[place], classes[column]) for place, column in np.argwhere(mask[rows])[:limit]]
    cells = ((row + 2, name, quoted(submission.column(name)[row + 2])) for row, name in first)
    shown = ", ".join(f"row {row}, {name} ({cell})" for row, name, cell in cells)
    count = np.count_nonzero(mask)
    return shown if count <= limit else f"{shown} … ({count:,} in all)"
