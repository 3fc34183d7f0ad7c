"""Whatever the cells are, a table is read back as it was written, or refused in a sentence."""

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrlt.challenges import get_challenge
from cxrlt.challenges.csv_file import read_csv, read_lines
from cxrlt.errors import UserError
from fuzz.oracle import equal_or_both_nan

pytestmark = pytest.mark.slow

ALWAYS_THE_SAME = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck), database=None
)
SPEC = "train: train.csv\nid: image\npatient: patient\npath: path\nclasses: [Mass, Hernia]\n"
# text without blanks at its ends, control characters, or digits that a spreadsheet may have made
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"))
WORDS = st.text(st.one_of(LETTERS, st.sampled_from(" \",;|'=+-@#")), min_size=1, max_size=12).map(
    lambda text: f"a{text.strip()}z"
)
HEXADECIMAL = st.from_regex(r"[0-9]{1,5}e[0-9]{1,5}", fullmatch=True)
DIGITS = st.from_regex(r"0*[0-9]{1,40}", fullmatch=True).filter(str.isascii)
IDS = st.one_of(
    WORDS, HEXADECIMAL, DIGITS, st.uuids().map(str), st.sampled_from(["NA", "nan", "1-Mar", "TRUE"])
)
LABELS = st.sampled_from(["0", "1", "0.0", "1.0", "", " 1 "])
VALUES = {"0": 0.0, "1": 1.0, "": np.nan}
TABLES = st.lists(st.tuples(IDS, IDS, LABELS, LABELS), min_size=1, max_size=20, unique_by=lambda row: row[0])


def read_train(content: bytes) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        (inputs / "challenge.yaml").write_text(SPEC)
        (inputs / "train.csv").write_bytes(content)
        return get_challenge("csv", inputs).read("train", inputs)


@ALWAYS_THE_SAME
@given(
    TABLES,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_a_table_of_any_ids_and_labels_is_read_back_exactly(rows, line_end, quoting, mark):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=quoting)
    writer.writerow(["image", "patient", "path", "Mass", "Hernia"])
    writer.writerows(
        [image, patient, f"{k}.png", *labels] for k, (image, patient, *labels) in enumerate(rows)
    )
    labels = [[VALUES[label.strip()[:1]] for label in row[2:]] for row in rows]
    content = text.getvalue().encode("utf-8-sig" if mark else "utf-8")
    if np.isnan(labels).all():
        try:
            read_train(content)
        except UserError as error:
            assert "every label is blank" in str(error)
            return
    table = read_train(content)
    assert table.index.tolist() == [row[0] for row in rows]
    assert table["patient"].tolist() == [row[1] for row in rows]
    read = table[["Mass", "Hernia"]].to_numpy()
    assert all(map(equal_or_both_nan, read.ravel(), np.ravel(labels)))


@ALWAYS_THE_SAME
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_are_a_table_or_a_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(content)
        for read in (read_csv, read_lines):
            try:
                read(path)
            except UserError as error:
                assert str(error).isprintable()


@ALWAYS_THE_SAME
@given(st.lists(st.text('ab01,"\n\r ;\t\ufeff', max_size=6), min_size=1, max_size=12))
def test_cells_in_any_quoting_are_those_of_pythons_csv_module_or_a_sentence(pieces):
    content = "id,n\n" + ",".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(content.encode())
        try:
            file = read_csv(path)
        except UserError:
            return
    rows = [row for row in csv.reader(io.StringIO(content, newline="")) if row]
    assert all(len(row) == 2 for row in rows)
    assert file.text("id").tolist() == [row[0].strip() for row in rows[1:]]
    assert file.text("n").tolist() == [row[1].strip() for row in rows[1:]]
