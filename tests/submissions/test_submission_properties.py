"""Any written submission is valid and is read back equal; any damaged one is reported."""

import csv
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cxrlt.errors import UserError
from cxrlt.submissions.read import read_submission
from cxrlt.submissions.validate import validate_submission
from cxrlt.submissions.write import write_csv
from five_images import CLASSES, FIVE_IMAGES, IDS
from fuzz.oracle import parse_submission

pytestmark = pytest.mark.slow

DETERMINISTIC = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck), database=None
)
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"))
PROBABILITIES = st.floats(0, 1, allow_subnormal=True)
TABLES = st.lists(
    st.tuples(st.text(LETTERS, min_size=1, max_size=12), *[PROBABILITIES] * 3),
    min_size=2,
    max_size=15,
    unique_by=lambda row: row[0],
)
WRONG = st.sampled_from(
    ["", "nan", "x", "inf", "-0.1", "1.1", "0,5", "1e400", "0x1", "True", " ", "--1", "None"]
)


def rows_of(table: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(
        [row[1:] for row in table], [row[0] for row in table], list(CLASSES), dtype=np.float64
    )


def is_ranked(rows: pd.DataFrame) -> bool:
    """Whether every class has two values, and others than 0 and 1, as the metric needs."""
    return all(rows[name].nunique() > 1 and not rows[name].isin([0, 1]).all() for name in CLASSES)


def problems_of(content: bytes, ids: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.csv"
        path.write_bytes(content)
        return validate_submission(path, FIVE_IMAGES, ids)


def written(rows: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    write_csv(file, FIVE_IMAGES, rows)
    return file.getvalue()


@DETERMINISTIC
@given(TABLES)
def test_what_is_written_is_valid_and_has_the_same_ids_and_numbers(table):
    rows = rows_of(table).round(9)
    assume(is_ranked(rows))
    content = written(rows)
    assert problems_of(content, rows.index.tolist()) == []
    header, numbers = parse_submission(content)
    assert header == ["dicom_id", *CLASSES]
    assert list(numbers) == rows.index.tolist()
    assert np.allclose(list(numbers.values()), rows.to_numpy(), rtol=1e-11, atol=0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.csv").write_bytes(content)
        read = read_submission(Path(folder) / "mine.csv").numbers(CLASSES)
    assert np.array_equal(read, list(numbers.values()))


@DETERMINISTIC
@given(TABLES, st.data())
def test_one_wrong_cell_is_named_with_its_row_and_class(table, data):
    rows = rows_of(table)
    assume(is_ranked(rows))
    cells = list(csv.reader(io.StringIO(written(rows).decode(), newline="")))
    row = data.draw(st.integers(1, len(table)))
    place = data.draw(st.integers(1, 3))
    cells[row][place] = text = data.draw(WRONG)
    text_file = io.StringIO(newline="")
    csv.writer(text_file, lineterminator="\n").writerows(cells)
    problems = problems_of(text_file.getvalue().encode(), rows.index.tolist())
    assert any(f"row {row + 1}, {CLASSES[place - 1]} ({text!r})" in problem for problem in problems)


@DETERMINISTIC
@given(TABLES, st.data())
def test_one_other_id_is_missed_by_name(table, data):
    rows = rows_of(table)
    assume(is_ranked(rows))
    ids = rows.index.tolist()
    place = data.draw(st.integers(0, len(ids) - 1))
    asked = [*ids[:place], "another", *ids[place + 1 :]]
    assume("another" not in ids)
    problems = problems_of(written(rows), asked)
    assert "1 id of the template missing: another." in problems
    assert any("1 id not in the template: " in problem for problem in problems)


@DETERMINISTIC
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)), st.sampled_from(["csv", "zip"])
)
def test_any_bytes_are_refused_in_sentences(content, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"any.{suffix}"
        path.write_bytes(content)
        problems = validate_submission(path, replace(FIVE_IMAGES, container=suffix), IDS)
        assert problems
        assert all(problem.isprintable() for problem in problems)
        try:
            read_submission(path)
        except UserError as error:
            assert str(error).isprintable()
