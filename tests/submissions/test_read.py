import io

import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.submissions import read
from cxrlt.submissions.read import read_submission

PLAIN = "id,Mass,Nodule\na,.1,2\nb,3e-1,x\n"
CONTENTS = {
    "plain": PLAIN,
    "no newline at the end": PLAIN.rstrip("\n"),
    "windows lines": PLAIN.replace("\n", "\r\n"),
    "old mac lines": PLAIN.replace("\n", "\r"),
    "mixed lines": PLAIN.replace("\n", "\r", 1),
    "byte order mark": "\ufeff" + PLAIN,
    "byte order mark and quotes": "\ufeff" + PLAIN.replace("id", '"id"'),
    "blank lines": PLAIN.replace("\n", "\n\n"),
    "blank windows lines": PLAIN.replace("\n", "\r\n\r\n"),
    "blank first line": "\n" + PLAIN,
    "a line of spaces": PLAIN.replace("\n", "\n  \n", 1),
    "spaces around cells": PLAIN.replace(",", " , ").replace("\n", " \n "),
    "quoted cells": PLAIN.replace("a,.1", '"a,1",".1"'),
    "a quoted line break": PLAIN.replace("a,", '"a\nb",'),
    "a quote within a cell": PLAIN.replace("a,", 'a"b,'),
    "a short row": PLAIN.replace("3e-1,x", "3e-1"),
    "an empty cell": PLAIN.replace("3e-1", ""),
    "words for nothing": PLAIN.replace("3e-1", "NA").replace("x", "null"),
    "other alphabets": PLAIN.replace("x", "ä\u00a0\u2028日本"),
    "a name used twice": PLAIN.replace("Nodule", "Mass"),
    "one column": "id\na\nb\n",
    "one column with a blank": "id\na\n\nb\n",
    "semicolons": PLAIN.replace(",", ";"),
    "a header alone": "id,Mass\n",
    "a row of commas": PLAIN + ",,\n",
    "many rows": "id,Mass\n" + "".join(f"{n},{n / 7}\n" for n in range(20_000)),
}


@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_cells_are_what_pandas_reads_as_text(content, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "mine.csv"
    path.write_bytes(content.encode())
    text = pd.read_csv(io.BytesIO(content.encode()), header=None, dtype=str, keep_default_na=False).fillna("")
    submission = read_submission(path)
    assert submission.header == tuple(text.iloc[0])
    assert submission.row_numbers.tolist() == list(range(2, len(text) + 1))
    for name in submission.header:
        column = submission.column(name)
        assert column.tolist() == text[submission.header.index(name)].tolist()[1:]
        assert column.index.equals(submission.row_numbers)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b\n1,2\n1,2,3\n", r"rows of equal length \(.*Expected 2 fields in line 3, saw 3"),
        (b"a,b\n1,\xff\n", r"mine.csv is not in UTF-8: invalid byte 0xff in line 2"),
        ("a,b\n1,x\0y\n", "contains a NUL character in line 2"),
        ("", "mine.csv is empty"),
        ("\n\n", "mine.csv is empty"),
        ('a,b\n1,"2\n', "EOF inside string"),
    ],
)
def test_the_error_for_an_unreadable_file_names_the_line(content, sentence, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence):
        read_submission(path)


CELLS = [
    "0.5",
    ".5",
    "5.",
    "+1",
    "-0",
    "1e-320",
    "1e400",
    "1e-400",
    "inf",
    "-Infinity",
    "nan",
    "NaN",
    "123456789",
]
NOT_NUMBERS = ["", " ", "x", "0,5", "0x10", "1_0", "1d2", "--1", "1 2", "ten", "None", "٣"]


@pytest.mark.parametrize("cells", [CELLS, [*CELLS, " 0.5", "0.5 "], [*CELLS, *NOT_NUMBERS]])
def test_cells_are_parsed_like_python_floats_and_other_text_is_nan(cells, tmp_path):
    path = tmp_path / "mine.csv"
    pd.DataFrame({"id": range(len(cells)), "Mass": cells, "Nodule": "0.25"}).to_csv(path, index=False)
    values = read_submission(path).numbers(["Nodule", "Mass"])
    assert values.dtype == np.float64
    assert (values[:, 0] == 0.25).all()
    expected = [np.nan if cell in NOT_NUMBERS else float(cell) for cell in cells]
    assert np.array_equal(values[:, 1], expected, equal_nan=True)


@pytest.mark.parametrize("quote", ["", '"'])
def test_as_many_rows_are_read_as_are_allowed_and_not_one_more(quote, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,Mass\n" + f"{quote}a{quote},1\n" * 3)
    assert len(read_submission(path, max_rows=3).row_numbers) == 3
    with pytest.raises(UserError, match="more than 2 rows"):
        read_submission(path, max_rows=2)
