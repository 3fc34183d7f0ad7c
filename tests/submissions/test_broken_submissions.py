"""Broken and unusual submissions: tables, values, and zips that no server should unpack."""

import gzip
import io
import math
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from cxrlt.submissions.validate import max_submission_bytes, validate_submission
from five_images import CLASSES, FIVE_IMAGES, IDS
from fuzz.oracle import equal_or_both_nan, parse_submission

LINES = ["dicom_id,Mass,No Finding,Round(ed) Atelectasis"]
LINES += [f"{image},0.{k}1,{k}.5e-1,.{k}3" for k, image in enumerate(IDS)]
VALID_CSV = ("\n".join(LINES) + "\n").encode()
MAX_BYTES = max_submission_bytes(FIVE_IMAGES, IDS)
# who is refused says so in a sentence that a terminal and a report can show
MAX_MESSAGE_LENGTH = 3000


def problems_of(path: Path) -> str:
    """All problems of a file; none of one that Python's csv module reads as the template wants it."""
    problems = validate_submission(path, FIVE_IMAGES, IDS)
    assert all(problem.isprintable() and len(problem) < MAX_MESSAGE_LENGTH for problem in problems)
    if not problems:
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read(next(n for n in archive.namelist() if not n.startswith("code/")))
        header, numbers = parse_submission(content)
        assert (header[1:], list(numbers)) == (list(CLASSES), IDS)
        assert all(0 <= number <= 1 for row in numbers.values() for number in row)
    return " ".join(problems)


TABLES = {
    "sound": (VALID_CSV, ""),
    "byte order mark": (b"\xef\xbb\xbf" + VALID_CSV, ""),
    "windows lines": (VALID_CSV.replace(b"\n", b"\r\n"), ""),
    "old mac lines": (VALID_CSV.replace(b"\n", b"\r"), ""),
    "every cell quoted": (b'"' + VALID_CSV.strip().replace(b",", b'","').replace(b"\n", b'"\n"') + b'"', ""),
    "no line break at the end": (VALID_CSV.rstrip(), ""),
    "blank lines at the end": (VALID_CSV + b"\n\r\n", ""),
    "a line of blanks at the end": (VALID_CSV + b" \t", ""),
    "empty": (b"", "is empty"),
    "only line breaks": (b"\n\r\n", "is empty"),
    "only a blank": (b" ", "is empty"),
    "only blank lines": (b" \n\t \r\n", "is empty"),
    "a header only": (VALID_CSV.split(b"\n")[0], "It has no rows"),
    "no header": (VALID_CSV.split(b"\n", 1)[1], "There is no column 'dicom_id'"),
    "utf-16": (VALID_CSV.decode().encode("utf-16"), "is in UTF-16"),
    "utf-16 without a mark": (VALID_CSV.decode().encode("utf-16-le"), "NUL character in line 1"),
    "latin-1": (VALID_CSV.replace(b"c,", b"\xe4,"), "is not in UTF-8: invalid byte 0xe4 in line 2"),
    "a NUL character": (VALID_CSV[:-3] + b"\0" + VALID_CSV[-3:], "NUL character in line 6"),
    "packed with gzip": (gzip.compress(VALID_CSV), "is compressed with gzip"),
    "semicolons": (VALID_CSV.replace(b",", b";"), "separated by ';'"),
    "tabs": (VALID_CSV.replace(b",", b"\t"), "separated by '\\t'"),
    "decimal commas": (
        VALID_CSV.replace(b",", b";").replace(b".", b","),
        "separated by ';'|rows of equal length",
    ),
    "tabs after names": (VALID_CSV.replace(b",", b"\t,", 2), "There is no column 'dicom_id'"),
    "blank headers": (b",,," + VALID_CSV[VALID_CSV.index(b"\n") :], "There is no column"),
    "a column twice": (VALID_CSV.replace(b"No Finding", b"Mass"), "Duplicate columns: 'Mass'"),
    "an index of rows": (b"".join(b"%d,%b\n" % (k, line.encode()) for k, line in enumerate(LINES)), "'0'"),
    "cut short": (VALID_CSV[:-20], "of the template missing: d|No probability"),
    "an open quotation mark": (VALID_CSV.replace(b".13", b'".13'), "rows of equal length"),
    "a stray quotation mark": (VALID_CSV.replace(b"b,", b'b",'), 'not in the template: b"'),
    "a row too long": (VALID_CSV + b"f,1,1,1,1\n", "rows of equal length"),
    "twenty thousand columns": (b"," * 20_000 + b"\n", "columns; at most 10,000 are allowed"),
    "a cell of 10 MB": (VALID_CSV.replace(b"c,", b"x" * 10_000_000 + b","), "bytes"),
    "a cell of 50 KB": (VALID_CSV.replace(b"c,", b"x" * 50_000 + b","), "not in the template: xxx"),
    "a long number": (VALID_CSV.replace(b".13", b"." + b"1" * 50_000), ""),
    "a long row of digits": (VALID_CSV.replace(b".13", b"1" * 50_000 + b"x"), "Text instead of a number"),
    "a page of the web": (b"<html>\n<p>\n", "There is no column"),
    "an id turned into a number": (VALID_CSV.replace(b"e,", b"1.9E+38,"), "missing: e"),
    "an id in capitals": (VALID_CSV.replace(b"c,", b"C,"), "not in the template: C"),
    "an id with a blank": (VALID_CSV.replace(b"c,", b"c ,"), "not in the template: c "),
    "an id with a line break": (VALID_CSV.replace(b"c,", b'"c\n",'), "not in the template: c\\n"),
    "an escape sequence for an id": (
        VALID_CSV.replace(b"c,", b"\x1b[31m,"),
        "not in the template: \\x1b[31m",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_taken_as_it_is_or_refused_in_sentences(content, sentence, packed, tmp_path):
    path = tmp_path / ("mine.zip" if packed else "mine.csv")
    path.write_bytes(zip_of({"mine.csv": content}) if packed else content)
    found = problems_of(path)
    assert bool(found) == bool(sentence), found
    assert any(part in found for part in sentence.split("|")), found


VALUES = {
    "0": None,
    "1": None,
    "-0.0": None,
    "+.5": None,
    "5e-1": None,
    "1.": None,
    "1E-400": None,
    "0." + "9" * 40: None,
    " 0.5 ": None,
    "1.0000001": "Values outside [0, 1]",
    "-1e-9": "Values outside [0, 1]",
    "1e300": "Values outside [0, 1]",
    "1e400": "Infinite values",
    "-1e400": "Infinite values",
    "inf": "Infinite values",
    "-Infinity": "Infinite values",
    "NaN": "No probability",
    "-nan": "Text instead of a number",
    "nan(x)": "Text instead of a number",
    "": "No probability",
    "  ": "No probability",
    "NA": "No probability",
    "None": "No probability",
    "0x1p-1": "Text instead of a number",
    "0x1": "Text instead of a number",
    "0,5": "Text instead of a number",
    "1,000": "Text instead of a number",
    "1_0": "Text instead of a number",
    "1e": "Text instead of a number",
    ".": "Text instead of a number",
    "5 %": "Text instead of a number",
    "1/2": "Text instead of a number",
    "TRUE": "Text instead of a number",
    "true": "Text instead of a number",
    "１": "Text instead of a number",
    "٠": "Text instead of a number",
    "0.5;": "Text instead of a number",
    "=0.5": "Text instead of a number",
    "1d0": "Text instead of a number",
}


@pytest.mark.parametrize(("text", "sentence"), VALUES.items(), ids=map(repr, VALUES))
def test_a_value_is_a_number_between_0_and_1_in_decimal_digits(text, sentence, tmp_path):
    cell = f'"{text}"' if "," in text else text
    (tmp_path / "mine.csv").write_text(VALID_CSV.decode().replace(".13", cell))
    found = problems_of(tmp_path / "mine.csv")
    assert (found == "") == (sentence is None), found
    if sentence:
        assert f"{sentence}: row 3, Round(ed) Atelectasis ({text!r})" in found


def test_an_exact_number_is_the_one_that_python_reads(tmp_path):
    (tmp_path / "mine.csv").write_text(VALID_CSV.decode().replace(".13", " 0.1234567890123456789"))
    _, numbers = parse_submission((tmp_path / "mine.csv").read_bytes())
    assert equal_or_both_nan(numbers["a"][2], float("0.1234567890123456789"))
    assert not math.isnan(numbers["a"][2])


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zip_with(name: str, content: bytes = VALID_CSV, mode: int = 0o644, **fields: object) -> bytes:
    """One member whose entry has other fields."""
    file = io.BytesIO()
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(info, content)
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("mine.csv", VALID_CSV)
        archive.writestr("mine.csv", VALID_CSV.replace(b"0.1", b"0.9"))
    return file.getvalue()


def renamed(old: bytes, new: bytes) -> bytes:
    """A zip whose member is called otherwise than zipfile would write it."""
    return zip_of({old.decode(): VALID_CSV}, zipfile.ZIP_STORED).replace(old, new)


def bomb() -> bytes:
    """A million times as much as it seems, and more."""
    return zip_of({"mine.csv": VALID_CSV + bytes(100_000_000).replace(b"\0", b"0")})


def bomb_with_false_size() -> bytes:
    """The same, whose entries say that it is small."""
    content = bomb()
    return content.replace(struct.pack("<L", len(VALID_CSV) + 100_000_000), struct.pack("<L", len(VALID_CSV)))


def flagged(content: bytes, bit: int) -> bytes:
    """Local header and central directory with a flag set."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(signature) + offset] |= bit
    return bytes(changed)


def method(content: bytes, number: int) -> bytes:
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        changed[changed.index(signature) + offset] = number
    return bytes(changed)


def zip64() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("mine.csv", "w", force_zip64=True) as member:
        member.write(VALID_CSV)
    return file.getvalue()


ZIPS = {
    "sound": (zip_of({"mine.csv": VALID_CSV}), ""),
    "stored": (zip_of({"mine.csv": VALID_CSV}, zipfile.ZIP_STORED), ""),
    "with code": (zip_of({"mine.csv": VALID_CSV, "code/a.py": b"x", "code/b/c.csv": b"x"}), ""),
    "with the folder of the code": (zip_of({"mine.csv": VALID_CSV, "code/": b""}), ""),
    "of 64 bits": (zip64(), ""),
    "with something before it": (b"#!/bin/sh\n" + zip_of({"mine.csv": VALID_CSV}), ""),
    "empty": (zip_of({}), "has no CSV. It contains: nothing"),
    "without a CSV": (zip_of({"mine.txt": VALID_CSV}), "has no CSV. It contains: mine.txt"),
    "of several": (zip_of({"a.csv": VALID_CSV, "b.csv": VALID_CSV}), "has more than one CSV: a.csv, b.csv"),
    "of the same twice": (twice(), "has more than one CSV: mine.csv, mine.csv"),
    "of a folder": (zip_of({"a/mine.csv": VALID_CSV}), "has its CSV in a folder (a/mine.csv)"),
    "with what a Mac adds": (zip_of({"m.csv": VALID_CSV, "__MACOSX/._m.csv": b"x"}), "more than one CSV"),
    "with something beside it": (
        zip_of({"mine.csv": VALID_CSV, "notes.txt": b"x"}),
        "contains notes.txt; only code/",
    ),
    "upwards": (
        zip_of({"../mine.csv": VALID_CSV}),
        "contains '../mine.csv'. Names in a zip must be relative",
    ),
    "upwards from the code": (
        zip_of({"mine.csv": VALID_CSV, "code/../../x": b"x"}),
        "contains 'code/../../x'. Names",
    ),
    "to a place": (
        zip_of({"/tmp/mine.csv": VALID_CSV}),
        "contains '/tmp/mine.csv'. Names in a zip must be relative",
    ),
    "to a drive": (
        zip_of({"C:mine.csv": VALID_CSV}),
        "contains 'C:mine.csv'. Names in a zip must be relative",
    ),
    "with a backslash": (renamed(b"a-mine.csv", b"a\\mine.csv"), "Names in a zip must be relative"),
    "with a NUL": (renamed(b"mine.csv.exe", b"mine.csv\0exe"), "contains 'mine.csv\\x00exe'. Names in a zip"),
    "with an escape sequence": (
        zip_of({"\x1b[31m.csv": VALID_CSV}),
        "contains '\\x1b[31m.csv'. Names in a zip",
    ),
    "with a link": (
        zip_with("mine.csv", b"/etc/passwd", stat.S_IFLNK | 0o777),
        "contains a link, 'mine.csv'",
    ),
    "encrypted": (
        flagged(zip_of({"mine.csv": VALID_CSV}), 1),
        "is encrypted. Zip it again without a password",
    ),
    "of patches": (
        flagged(zip_of({"mine.csv": VALID_CSV}), 32),
        "cannot be unpacked (compressed patched data",
    ),
    "packed with bzip2": (zip_of({"mine.csv": VALID_CSV}, zipfile.ZIP_BZIP2), "Zip it again with deflate"),
    "packed with lzma": (zip_of({"mine.csv": VALID_CSV}, zipfile.ZIP_LZMA), "Zip it again with deflate"),
    "packed in no known way": (method(zip_of({"mine.csv": VALID_CSV}), 99), "Zip it again with deflate"),
    "that says stored and is packed": (method(zip_of({"mine.csv": VALID_CSV}), 0), "cannot be unpacked"),
    "that says packed and is stored": (method(zip_with("mine.csv"), 8), "cannot be unpacked"),
    "cut short": (zip_of({"mine.csv": VALID_CSV})[:-30], "is not a zip file"),
    "of nothing but its end": (zip_of({"mine.csv": VALID_CSV})[-22:], "cannot be unpacked"),
    "with another checksum": (
        zip_of({"mine.csv": VALID_CSV}).replace(struct.pack("<L", zlib.crc32(VALID_CSV)), b"abcd"),
        "cannot be unpacked (Bad CRC-32",
    ),
    "with other bytes": (zip_with("mine.csv").replace(b"0.01", b"0.02"), "cannot be unpacked (Bad CRC-32"),
    "of 100 MB": (bomb(), "unpacks to 100,000,"),
    "of 100 MB that says it is small": (bomb_with_false_size(), "cannot be unpacked"),
    "of a CSV alone": (VALID_CSV, "is not a zip file"),
    "of zeros": (bytes(10_000), "is not a zip file"),
}


@pytest.mark.parametrize(("content", "sentence"), ZIPS.values(), ids=ZIPS)
def test_a_zip_is_unpacked_only_if_it_is_what_servers_take(content, sentence, tmp_path):
    (tmp_path / "mine.zip").write_bytes(content)
    tracemalloc.start()
    found = problems_of(tmp_path / "mine.zip")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bool(found) == bool(sentence), found
    assert sentence in found
    assert most < 10 * MAX_BYTES + 5_000_000


def test_a_zip_of_very_many_names_is_not_looked_through(tmp_path):
    members = {"mine.csv": VALID_CSV} | {f"code/{n:0200d}": b"" for n in range(20_000)}
    (tmp_path / "mine.zip").write_bytes(zip_of(members, zipfile.ZIP_STORED))
    assert "bytes of file names" in problems_of(tmp_path / "mine.zip")


def test_rows_without_end_are_not_read_to_the_end(tmp_path):
    for name, row in (("plain", b"x,1,1,1\n"), ("quoted", b'"x",1,1,1\n')):
        (tmp_path / f"{name}.csv").write_bytes(VALID_CSV + row * 6000)
        assert "has more than 1,010 rows" in problems_of(tmp_path / f"{name}.csv")


def test_every_zip_cut_short_anywhere_is_refused(tmp_path):
    content = zip_of({"mine.csv": VALID_CSV})
    for size in range(len(content)):
        (tmp_path / "mine.zip").write_bytes(content[:size])
        assert problems_of(tmp_path / "mine.zip")


def test_a_zip_that_is_called_a_csv_is_refused_with_its_right_name(tmp_path):
    (tmp_path / "mine.csv").write_bytes(zip_of({"mine.csv": VALID_CSV}))
    assert "is a zip file. Rename it to .zip" in problems_of(tmp_path / "mine.csv")


def test_a_file_may_be_as_large_as_any_program_writes_it_and_no_larger(tmp_path):
    header = LINES[0]
    wide = [",".join([image, *[f"0.{k}" + "1" * 40] * 3]) for k, image in enumerate(IDS)]
    (tmp_path / "wide.csv").write_text("\n".join([header, *wide]))
    assert problems_of(tmp_path / "wide.csv") == ""
    (tmp_path / "long.csv").write_bytes(VALID_CSV + b"\n" * MAX_BYTES)
    assert f"at most {MAX_BYTES:,} are allowed" in problems_of(tmp_path / "long.csv")
