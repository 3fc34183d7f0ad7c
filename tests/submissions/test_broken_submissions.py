"""Submissions that are broken, or only look it: tables, values, and zips that no server should unpack."""

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

from cxrlt.submissions.validate import largest_submission, validate_submission
from five_images import CLASSES, FIVE_IMAGES, IDS
from fuzz.oracle import same, submission_of

LINES = ["dicom_id,Mass,No Finding,Round(ed) Atelectasis"]
LINES += [f"{image},0.{k}1,{k}.5e-1,.{k}3" for k, image in enumerate(IDS)]
SOUND = ("\n".join(LINES) + "\n").encode()
LARGEST = largest_submission(FIVE_IMAGES, IDS)
# who is refused says so in a sentence that a terminal and a report can show
LONGEST_SENTENCE = 3000


def problems_of(path: Path) -> str:
    """All problems of a file; none of one that Python's csv module reads as the template wants it."""
    problems = validate_submission(path, FIVE_IMAGES, IDS)
    assert all(problem.isprintable() and len(problem) < LONGEST_SENTENCE for problem in problems)
    if not problems:
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read(next(n for n in archive.namelist() if not n.startswith("code/")))
        header, numbers = submission_of(content)
        assert (header[1:], list(numbers)) == (list(CLASSES), IDS)
        assert all(0 <= number <= 1 for row in numbers.values() for number in row)
    return " ".join(problems)


TABLES = {
    "sound": (SOUND, ""),
    "byte order mark": (b"\xef\xbb\xbf" + SOUND, ""),
    "windows lines": (SOUND.replace(b"\n", b"\r\n"), ""),
    "old mac lines": (SOUND.replace(b"\n", b"\r"), ""),
    "every cell quoted": (b'"' + SOUND.strip().replace(b",", b'","').replace(b"\n", b'"\n"') + b'"', ""),
    "no line break at the end": (SOUND.rstrip(), ""),
    "blank lines at the end": (SOUND + b"\n\r\n", ""),
    "a line of blanks at the end": (SOUND + b" \t", ""),
    "empty": (b"", "is empty"),
    "line breaks alone": (b"\n\r\n", "is empty"),
    "a blank alone": (b" ", "is empty"),
    "lines of blanks alone": (b" \n\t \r\n", "is empty"),
    "a header alone": (SOUND.split(b"\n")[0], "There are no rows"),
    "no header": (SOUND.split(b"\n", 1)[1], "There is no column 'dicom_id'"),
    "utf-16": (SOUND.decode().encode("utf-16"), "is in UTF-16"),
    "utf-16 without a mark": (SOUND.decode().encode("utf-16-le"), "NUL character in line 1"),
    "latin-1": (SOUND.replace(b"c,", b"\xe4,"), "is not in UTF-8: see byte 0xe4 in line 2"),
    "a NUL character": (SOUND[:-3] + b"\0" + SOUND[-3:], "NUL character in line 6"),
    "packed with gzip": (gzip.compress(SOUND), "is packed with gzip"),
    "semicolons": (SOUND.replace(b",", b";"), "separated by ';'"),
    "tabs": (SOUND.replace(b",", b"\t"), "separated by '\\t'"),
    "decimal commas": (SOUND.replace(b",", b";").replace(b".", b","), "separated by ';'|rows of one length"),
    "tabs after names": (SOUND.replace(b",", b"\t,", 2), "There is no column 'dicom_id'"),
    "blank headers": (b",,," + SOUND[SOUND.index(b"\n") :], "There is no column"),
    "a column twice": (SOUND.replace(b"No Finding", b"Mass"), "more than once: 'Mass'"),
    "an index of rows": (b"".join(b"%d,%b\n" % (k, line.encode()) for k, line in enumerate(LINES)), "'0'"),
    "cut short": (SOUND[:-20], "of the template missing: d|No probability"),
    "an open quotation mark": (SOUND.replace(b".13", b'".13'), "rows of one length"),
    "a stray quotation mark": (SOUND.replace(b"b,", b'b",'), 'not in the template: b"'),
    "a row too long": (SOUND + b"f,1,1,1,1\n", "rows of one length"),
    "twenty thousand columns": (b"," * 20_000 + b"\n", "columns; 10,000 are the most"),
    "a cell of 10 MB": (SOUND.replace(b"c,", b"x" * 10_000_000 + b","), "bytes"),
    "a cell of 50 KB": (SOUND.replace(b"c,", b"x" * 50_000 + b","), "not in the template: xxx"),
    "a long number": (SOUND.replace(b".13", b"." + b"1" * 50_000), ""),
    "a long row of digits": (SOUND.replace(b".13", b"1" * 50_000 + b"x"), "Text in place of a number"),
    "a page of the web": (b"<html>\n<p>\n", "There is no column"),
    "an id turned into a number": (SOUND.replace(b"e,", b"1.9E+38,"), "missing: e"),
    "an id in capitals": (SOUND.replace(b"c,", b"C,"), "not in the template: C"),
    "an id with a blank": (SOUND.replace(b"c,", b"c ,"), "not in the template: c "),
    "an id with a line break": (SOUND.replace(b"c,", b'"c\n",'), "not in the template: c\\n"),
    "an escape sequence for an id": (SOUND.replace(b"c,", b"\x1b[31m,"), "not in the template: \\x1b[31m"),
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
    "-nan": "Text in place of a number",
    "nan(x)": "Text in place of a number",
    "": "No probability",
    "  ": "No probability",
    "NA": "No probability",
    "None": "No probability",
    "0x1p-1": "Text in place of a number",
    "0x1": "Text in place of a number",
    "0,5": "Text in place of a number",
    "1,000": "Text in place of a number",
    "1_0": "Text in place of a number",
    "1e": "Text in place of a number",
    ".": "Text in place of a number",
    "5 %": "Text in place of a number",
    "1/2": "Text in place of a number",
    "TRUE": "Text in place of a number",
    "true": "Text in place of a number",
    "１": "Text in place of a number",
    "٠": "Text in place of a number",
    "0.5;": "Text in place of a number",
    "=0.5": "Text in place of a number",
    "1d0": "Text in place of a number",
}


@pytest.mark.parametrize(("text", "sentence"), VALUES.items(), ids=map(repr, VALUES))
def test_a_value_is_a_number_between_0_and_1_in_decimal_digits(text, sentence, tmp_path):
    cell = f'"{text}"' if "," in text else text
    (tmp_path / "mine.csv").write_text(SOUND.decode().replace(".13", cell))
    found = problems_of(tmp_path / "mine.csv")
    assert (found == "") == (sentence is None), found
    if sentence:
        assert f"{sentence}: row 3, Round(ed) Atelectasis ({text!r})" in found


def test_an_exact_number_is_the_one_that_python_reads(tmp_path):
    (tmp_path / "mine.csv").write_text(SOUND.decode().replace(".13", " 0.1234567890123456789"))
    _, numbers = submission_of((tmp_path / "mine.csv").read_bytes())
    assert same(numbers["a"][2], float("0.1234567890123456789"))
    assert not math.isnan(numbers["a"][2])


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zip_with(name: str, content: bytes = SOUND, mode: int = 0o644, **fields: object) -> bytes:
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
        archive.writestr("mine.csv", SOUND)
        archive.writestr("mine.csv", SOUND.replace(b"0.1", b"0.9"))
    return file.getvalue()


def renamed(old: bytes, new: bytes) -> bytes:
    """A zip whose member is called otherwise than zipfile would write it."""
    return zip_of({old.decode(): SOUND}, zipfile.ZIP_STORED).replace(old, new)


def bomb() -> bytes:
    """A million times as much as it seems, and more."""
    return zip_of({"mine.csv": SOUND + bytes(100_000_000).replace(b"\0", b"0")})


def lying_bomb() -> bytes:
    """The same, whose entries say that it is small."""
    content = bomb()
    return content.replace(struct.pack("<L", len(SOUND) + 100_000_000), struct.pack("<L", len(SOUND)))


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
        member.write(SOUND)
    return file.getvalue()


ZIPS = {
    "sound": (zip_of({"mine.csv": SOUND}), ""),
    "stored": (zip_of({"mine.csv": SOUND}, zipfile.ZIP_STORED), ""),
    "with code": (zip_of({"mine.csv": SOUND, "code/a.py": b"x", "code/b/c.csv": b"x"}), ""),
    "with the folder of the code": (zip_of({"mine.csv": SOUND, "code/": b""}), ""),
    "of 64 bits": (zip64(), ""),
    "with something before it": (b"#!/bin/sh\n" + zip_of({"mine.csv": SOUND}), ""),
    "empty": (zip_of({}), "holds no CSV: nothing"),
    "without a CSV": (zip_of({"mine.txt": SOUND}), "holds no CSV: mine.txt"),
    "of several": (zip_of({"a.csv": SOUND, "b.csv": SOUND}), "holds more than one CSV: a.csv, b.csv"),
    "of the same twice": (twice(), "holds more than one CSV: mine.csv, mine.csv"),
    "of a folder": (zip_of({"a/mine.csv": SOUND}), "holds its CSV in a folder (a/mine.csv)"),
    "with what a Mac adds": (zip_of({"m.csv": SOUND, "__MACOSX/._m.csv": b"x"}), "more than one CSV"),
    "with something beside it": (
        zip_of({"mine.csv": SOUND, "notes.txt": b"x"}),
        "holds notes.txt; only code/",
    ),
    "upwards": (zip_of({"../mine.csv": SOUND}), "holds '../mine.csv': names in a zip are relative"),
    "upwards from the code": (
        zip_of({"mine.csv": SOUND, "code/../../x": b"x"}),
        "holds 'code/../../x': names",
    ),
    "to a place": (zip_of({"/tmp/mine.csv": SOUND}), "holds '/tmp/mine.csv': names in a zip are relative"),
    "to a drive": (zip_of({"C:mine.csv": SOUND}), "holds 'C:mine.csv': names in a zip are relative"),
    "with a backslash": (renamed(b"a-mine.csv", b"a\\mine.csv"), "names in a zip are relative"),
    "with a NUL": (renamed(b"mine.csv.exe", b"mine.csv\0exe"), "holds 'mine.csv\\x00exe': names in a zip"),
    "with an escape sequence": (zip_of({"\x1b[31m.csv": SOUND}), "holds '\\x1b[31m.csv': names in a zip"),
    "with a link": (zip_with("mine.csv", b"/etc/passwd", stat.S_IFLNK | 0o777), "holds a link, 'mine.csv'"),
    "encrypted": (
        flagged(zip_of({"mine.csv": SOUND}), 1),
        "is encrypted. Pack it again without a password",
    ),
    "of patches": (flagged(zip_of({"mine.csv": SOUND}), 32), "cannot be unpacked (compressed patched data"),
    "packed with bzip2": (zip_of({"mine.csv": SOUND}, zipfile.ZIP_BZIP2), "Pack it again with deflate"),
    "packed with lzma": (zip_of({"mine.csv": SOUND}, zipfile.ZIP_LZMA), "Pack it again with deflate"),
    "packed in no known way": (method(zip_of({"mine.csv": SOUND}), 99), "Pack it again with deflate"),
    "that says stored and is packed": (method(zip_of({"mine.csv": SOUND}), 0), "cannot be unpacked"),
    "that says packed and is stored": (method(zip_with("mine.csv"), 8), "cannot be unpacked"),
    "cut short": (zip_of({"mine.csv": SOUND})[:-30], "is not a zip file"),
    "of nothing but its end": (zip_of({"mine.csv": SOUND})[-22:], "cannot be unpacked"),
    "with another checksum": (
        zip_of({"mine.csv": SOUND}).replace(struct.pack("<L", zlib.crc32(SOUND)), b"abcd"),
        "cannot be unpacked (Bad CRC-32",
    ),
    "with other bytes": (zip_with("mine.csv").replace(b"0.01", b"0.02"), "cannot be unpacked (Bad CRC-32"),
    "of 100 MB": (bomb(), "unpacks to 100,000,"),
    "of 100 MB that says it is small": (lying_bomb(), "cannot be unpacked"),
    "of a CSV alone": (SOUND, "is not a zip file"),
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
    assert most < 10 * LARGEST + 5_000_000


def test_a_zip_of_very_many_names_is_not_looked_through(tmp_path):
    members = {"mine.csv": SOUND} | {f"code/{n:0200d}": b"" for n in range(20_000)}
    (tmp_path / "mine.zip").write_bytes(zip_of(members, zipfile.ZIP_STORED))
    assert "bytes of names" in problems_of(tmp_path / "mine.zip")


def test_rows_without_end_are_not_read_to_the_end(tmp_path):
    for name, row in (("plain", b"x,1,1,1\n"), ("quoted", b'"x",1,1,1\n')):
        (tmp_path / f"{name}.csv").write_bytes(SOUND + row * 6000)
        assert "has more than 1,010 rows" in problems_of(tmp_path / f"{name}.csv")


def test_every_zip_cut_short_anywhere_is_refused(tmp_path):
    content = zip_of({"mine.csv": SOUND})
    for size in range(len(content)):
        (tmp_path / "mine.zip").write_bytes(content[:size])
        assert problems_of(tmp_path / "mine.zip")


def test_a_zip_that_is_called_a_csv_is_refused_with_its_right_name(tmp_path):
    (tmp_path / "mine.csv").write_bytes(zip_of({"mine.csv": SOUND}))
    assert "is a zip file. Rename it to .zip" in problems_of(tmp_path / "mine.csv")


def test_a_file_may_be_as_large_as_any_program_writes_it_and_no_larger(tmp_path):
    header = LINES[0]
    wide = [",".join([image, *[f"0.{k}" + "1" * 40] * 3]) for k, image in enumerate(IDS)]
    (tmp_path / "wide.csv").write_text("\n".join([header, *wide]))
    assert problems_of(tmp_path / "wide.csv") == ""
    (tmp_path / "long.csv").write_bytes(SOUND + b"\n" * LARGEST)
    assert f"of at most {LARGEST:,}" in problems_of(tmp_path / "long.csv")
