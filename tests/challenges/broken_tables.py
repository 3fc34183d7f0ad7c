"""Broken and unusual label tables: the change to a valid table, and the expected error."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from layouts import TableLayout, csv_bytes, replace_cell

OK = None
Rows = list[list[str]]


@dataclass(frozen=True)
class Case:
    """The bytes of a file, and a part of the expected error; OK if the file is valid."""

    name: str
    content: bytes
    sentence: str | None


def cases(layout: TableLayout) -> Iterator[Case]:
    """Yield every case for the training table of a challenge."""
    valid = csv_bytes(layout.rows())
    for name, change, sentence in FILES:
        yield Case(name, change(valid), sentence)
    for name, change, sentence in (*ROWS, *_columns(layout), *_cells(layout)):
        yield Case(name, csv_bytes(change(layout.rows())), sentence)
    for name, content in _quoting(layout).items():
        yield Case(name, content, "quoted wrongly")


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.csv", content)
    return file.getvalue()


FILES: list[tuple[str, Callable[[bytes], bytes], str | None]] = [
    ("valid", lambda t: t, OK),
    ("byte order mark", lambda t: b"\xef\xbb\xbf" + t, OK),
    ("windows lines", lambda t: t.replace(b"\n", b"\r\n"), OK),
    ("old mac lines", lambda t: t.replace(b"\n", b"\r"), OK),
    ("mixed lines", lambda t: t.replace(b"\n", b"\r\n", 3), OK),
    ("blank lines", lambda t: t.replace(b"\n", b"\n\n", 4) + b"\n\r\n", OK),
    ("no line break at the end", lambda t: t.rstrip(b"\n"), OK),
    (
        "every cell quoted",
        lambda t: b'"' + t.strip().replace(b",", b'","').replace(b"\n", b'"\n"') + b'"',
        OK,
    ),
    ("tabs after names", lambda t: t.replace(b",", b"\t,", 3), OK),
    ("blanks around cells", lambda t: t.replace(b",", b" , "), OK),
    ("empty", lambda t: b"", "is empty"),
    ("a byte order mark alone", lambda t: b"\xef\xbb\xbf", "is empty"),
    ("line breaks alone", lambda t: b"\n\r\n\n", "is empty"),
    ("a blank alone", lambda t: b" ", "is not a complete CSV file"),
    ("lines of blanks alone", lambda t: b" \n\t \r\n", "no column with a name"),
    ("a header alone", lambda t: t.split(b"\n")[0] + b"\n", "a header but no rows"),
    ("utf-16", lambda t: t.decode().encode("utf-16"), "is in UTF-16"),
    ("utf-16, the other way round", lambda t: b"\xfe\xff" + t.decode().encode("utf-16-be"), "is in UTF-16"),
    ("utf-16 without a mark", lambda t: t.decode().encode("utf-16-le"), "NUL"),
    ("utf-32", lambda t: t.decode().encode("utf-32-be"), "NUL"),
    ("latin-1", lambda t: t.replace(b"\n", b" \xe4\n", 2), "is not in UTF-8: invalid byte 0xe4 in line 1"),
    ("latin-1 at the end", lambda t: t + b"\xe4", "is not in UTF-8: invalid byte 0xe4 in line 14"),
    ("a surrogate", lambda t: t + b"\xed\xa0\x80", "is not in UTF-8"),
    ("a NUL character", lambda t: t[:-2] + b"\0" + t[-2:], "NUL character in line 13"),
    ("a tail of NUL characters", lambda t: t + bytes(5000), "NUL character in line 14"),
    ("packed with gzip", gzip.compress, "is compressed with gzip"),
    ("packed as zip", zipped, "is a zip file or a spreadsheet"),
    ("an old spreadsheet", lambda t: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is a spreadsheet"),
    ("parquet", lambda t: b"PAR1\x15" + t, "is a parquet file"),
    ("semicolons", lambda t: t.replace(b",", b";"), "separated by ';'"),
    ("tabs", lambda t: t.replace(b",", b"\t"), "no column"),
    ("cut short within a row", lambda t: t[: t.rindex(b",")], "not a complete CSV file"),
    ("two tables one after the other", lambda t: t + t, "row"),
    ("a page of the web", lambda t: b"<!DOCTYPE html>\n<html><body>Sign in, please</body></html>\n", ""),
    (
        "a pointer to a large file",
        lambda t: b"version https://git-lfs.github.com/spec/v1\noid x\n",
        "no column",
    ),
    ("a hundred thousand columns", lambda t: b",".join([b"c"] * 100_000) + b"\n", "100,000 columns"),
    ("a million columns", lambda t: b"," * 1_000_000 + b"\n", "columns; at most 10,000 are allowed"),
    ("a line that never ends", lambda t: b"x" * 10_000_000, "does not begin with column names"),
]
ROWS: list[tuple[str, Callable[[Rows], Rows], str | None]] = [
    ("one row", lambda rows: rows[:2], OK),
    ("a column without a name", lambda rows: [[*row, "x" * (row != rows[0])] for row in rows], OK),
    ("a row too long", lambda rows: [*rows, [*rows[1], "0"]], "not a complete CSV file"),
    ("a row too short", lambda rows: [*rows, rows[1][:-1]], "not a complete CSV file"),
    ("a row twice", lambda rows: [*rows, rows[1]], "more than one row for an image"),
    ("a column twice", lambda rows: [[*row, row[0]] for row in rows], "several columns named"),
    ("a header of blanks", lambda rows: [[""] * len(rows[0]), *rows[1:]], "no column with a name"),
    ("no header", lambda rows: rows[1:], "column"),
    ("one column", lambda rows: [row[:1] for row in rows], "no column"),
]
NUMBERS = "1.90E+38", "-1.9e+38", "1e+05", "12.0", "7.000"
IDS = {
    "a hexadecimal id": "4e12",
    "a long hexadecimal id": "12e45678",
    "an id with leading zeros": "007",
    "an id of digits": "1" * 40,
    "an id like a date": "1-Mar",
    "an id like an ISO date": "2023-01-05",
    "an id like a formula": "=1+1",
    "an id like a missing value": "NA",
    "an id in another alphabet": "日本",
    "a composed letter": "\u00e9",
    "a decomposed letter": "e\u0301",
    "an id with blanks within": "a b",
    "an id with a quotation mark": 'a"b',
    "an id with a comma": "a,b",
}
BROKEN_IDS = {
    "an id of blanks": (" \t\u00a0", "no id in row 2"),
    "no id": ("", "no id in row 2"),
    "a line break in an id": ("a\nb", "a line break or another control character in row 2 ('a\\nb')"),
    "a carriage return in an id": ("a\rb", "a line break or another control character"),
    "an escape sequence in an id": ("\x1b[31mred", "a line break or another control character"),
    "a line separator in an id": ("a\u2028b", "a line break or another control character"),
    "a cell of 10 MB": ("x" * 10_000_000, "an id has more than"),
}
PATHS = {
    "an absolute path": "/etc/passwd",
    "a path with a drive": "C:\\x.png",
    "a path of another machine": "\\\\host\\x.png",
    "a path upwards": "../x.png",
    "a path up and down": "a/../../x.png",
    "a path upwards, with backslashes": "a\\..\\x.png",
    "a path that ends upwards": "a/..",
}
LABELS = "NaN", "nan", "inf", "-1", "1.5", "TRUE", "yes", "2", "1e0", "01", "１", "0,5", "1;0", "x" * 200_000


def _cells(layout: TableLayout) -> Iterator[tuple[str, Callable[[Rows], Rows], str | None]]:
    ids = [layout.image, *([layout.patient] if layout.patient else [])]
    for name, text in IDS.items() if layout.patient else ():
        yield f"{name} of a patient", replace_cell(layout.patient, text), OK
    for number in NUMBERS:
        for column in ids:
            yield f"{number} as {column}", replace_cell(column, number), "has turned ids into numbers"
    for column in ids:
        for name, (text, sentence) in BROKEN_IDS.items():
            yield f"{name}, {column}", replace_cell(column, text), sentence
    for name, text in PATHS.items():
        if not (layout.suffix and text.endswith("..")):  # with a suffix, .. is a part of a file name
            yield name, replace_cell(layout.path, text), "must be inside the images folder"
    yield "a path too long", replace_cell(layout.path, f"a/{'x' * 300}/b.png"), "not a valid file name"
    yield "no path", replace_cell(layout.path, ""), ""
    column = layout.findings or layout.classes[0]
    sentence = "unknown finding" if layout.findings else "a label must be 0, 1 or blank"
    if layout.findings and layout.one_hot:
        sentence = "is none of"
    for text in LABELS:
        yield f"the label {text[:10]}", replace_cell(column, text), sentence


def _columns(layout: TableLayout) -> Iterator[tuple[str, Callable[[Rows], Rows], str | None]]:
    for column in filter(None, (layout.image, layout.patient, layout.path)):
        yield f"{column} renamed", replace_cell(column, f"{column}_", row=0), "did you mean"
        yield f"{column} under no name", replace_cell(column, "", row=0), "no column"
    if not layout.findings:
        name = layout.classes[-1]
        yield (
            "a class renamed",
            replace_cell(name, name.swapcase(), row=0),
            "If these are the same classes, rename",
        )
        yield "a class under no name", replace_cell(name, "", row=0), "no column for the class"


def _quoting(layout: TableLayout) -> dict[str, bytes]:
    """Return tables with a quotation mark that is never closed, or closed rows later."""
    rows = [[*row, "note" if number == 0 else "x"] for number, row in enumerate(layout.rows())]
    lines = csv_bytes(rows).split(b"\n")
    opened = [line[:-1] + b'"x' if number == 3 else line for number, line in enumerate(lines)]
    closed = [line[:-1] + b'say "x"' if number == 7 else line for number, line in enumerate(opened)]
    return {"a quotation mark never closed": b"\n".join(opened), "two stray ones": b"\n".join(closed)}
