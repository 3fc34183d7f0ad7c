"""Random damage of files, and changes that an attacker would try."""

import csv
import io
import random
import struct
import zipfile

from layouts import csv_bytes

TOKENS = [
    *(
        b'"',
        b'""',
        b",",
        b",,",
        b";",
        b"\t",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b'"a\nb"',
        b"\0",
        b"'",
        b"|",
    ),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x1f\x8b", b"PK\x03\x04", b"\x1a"),
    *(b"0", b"1", b"1.0", b"0.0", b"-1", b"1.5", b"NaN", b"inf", b"1e400", b"-0.0", b"1e-400", b"0x1p-3"),
    *(b"1.90E+38", b"12.0", b"4e12", b"12e45678", b"007", b"TRUE", b"NA", b"None", b"No Finding", b"Mass"),
    *(b"../", b"..", b"/", b"\\", b"C:", b"a/../../b", b"=1+1", b"2023-01-05", b"\x1b[31m", b"\x7f", b"\x0b"),
    *(
        text.encode()
        for text in (
            "\u00a0",
            "\u2028",
            "\u200b",
            "\u202e",
            "\x85",
            "é",
            "e\u0301",
            "日本",
            "\ufeff",
            "１",
            "\x1c",
        )
    ),
]
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 30, 46, 1000, 100_000_000)


def mutate_bytes(content: bytes, random_: random.Random, other: bytes) -> bytes:
    """Change the bytes one to four times; `other` is a file to splice with."""
    for _ in range(random_.choice((1, 1, 1, 2, 2, 3, 4))):
        content = random_.choice(CHANGES)(content, random_, other)
    return content


def change_cells(content: bytes, random_: random.Random, other: bytes) -> bytes:
    """Change cells, rows or columns of a table, and write a valid CSV file."""
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
    for _ in range(random_.choice((1, 1, 2, 3))):
        row, place = random_.randrange(len(rows)), random_.randrange(len(rows[0]))
        kind = random_.randrange(7)
        if kind < 3:
            cells = rows[row]
            text = random_.choice(TOKENS).decode(errors="replace")
            old = cells[place] if place < len(cells) else ""
            text = random_.choice((text, old + text, text + old, old[: len(old) // 2] + text))
            rows[row] = [text if k == place else cell for k, cell in enumerate(cells)]
        elif kind == 3:
            rows[row] = list(random_.choice(rows))
        elif kind == 4:
            rows = [cells[:place] + cells[place + 1 :] for cells in rows]
        elif kind == 5:
            rows = [[*cells, cells[place] if place < len(cells) else ""] for cells in rows]
        else:
            random_.shuffle(rows[row])
        if not rows[0]:
            break
    return csv_bytes(rows)


def _span(content: bytes, random_: random.Random) -> tuple[int, int]:
    first = random_.randrange(len(content) + 1)
    return first, min(len(content), first + random_.choice((1, 1, 2, 4, 16, 64, 500)))


def flip(content: bytes, random_: random.Random, other: bytes) -> bytes:
    if not content:
        return content
    place = random_.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random_.randrange(8)]) + content[place + 1 :]


def insert(content: bytes, random_: random.Random, other: bytes) -> bytes:
    place = random_.randrange(len(content) + 1)
    token = random_.choice(TOKENS) * random_.choice((1, 1, 1, 1, 2, 50))
    return content[:place] + token + content[place:]


def overwrite(content: bytes, random_: random.Random, other: bytes) -> bytes:
    place = random_.randrange(len(content) + 1)
    token = random_.choice(TOKENS)
    return content[:place] + token + content[place + len(token) :]


def drop(content: bytes, random_: random.Random, other: bytes) -> bytes:
    first, last = _span(content, random_)
    return content[:first] + content[last:]


def repeat(content: bytes, random_: random.Random, other: bytes) -> bytes:
    first, last = _span(content, random_)
    return content[:last] + content[first:last] * random_.choice((1, 1, 2, 20)) + content[last:]


def truncate(content: bytes, random_: random.Random, other: bytes) -> bytes:
    return content[: random_.randrange(len(content) + 1)]


def splice(content: bytes, random_: random.Random, other: bytes) -> bytes:
    return truncate(content, random_, other) + other[random_.randrange(len(other) + 1) :]


def number(content: bytes, random_: random.Random, other: bytes) -> bytes:
    """Overwrite a binary field of two or four bytes."""
    place = random_.randrange(len(content) + 1)
    field = struct.pack("<L", random_.choice(INTERESTING))[: random_.choice((2, 4))]
    return content[:place] + field + content[place + len(field) :]


def replace_token(content: bytes, random_: random.Random, other: bytes) -> bytes:
    """Replace one, two or all occurrences of a character, such as a comma or a line break."""
    old = random_.choice((b",", b"\n", b"0", b"1", b".", b"/", b"_", b" "))
    return content.replace(old, random_.choice(TOKENS), random_.choice((1, 2, -1)))


CHANGES = (flip, flip, insert, insert, overwrite, drop, repeat, truncate, splice, number, replace_token)


def make_zip(content: bytes, random_: random.Random) -> bytes:
    """Return a zip that contains `content` under a random name, sometimes with another file."""
    file = io.BytesIO()
    names = ("submission.csv", "a.csv", "a/b.csv", "../a.csv", "code/a.csv", "a.txt", "a\\b.csv", "é.csv")
    with zipfile.ZipFile(file, "w", random_.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr(random_.choice((*names[:1] * 6, *names)), content)
        if not random_.randrange(4):
            archive.writestr(random_.choice(("code/train.py", "code/b.csv", "notes.txt")), b"x" * 100)
    return file.getvalue()


def change_zip_header(content: bytes, random_: random.Random, other: bytes) -> bytes:
    """Change a field of an entry of the zip, or of its end record."""
    signatures = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    places = [place for place in map(content.find, signatures) if place >= 0]
    if not places:
        return number(content, random_, other)
    place = random_.choice(places) + 4 + random_.randrange(44)
    field = struct.pack("<L", random_.choice(INTERESTING))[: random_.choice((1, 2, 4))]
    return content[:place] + field + content[place + len(field) :]
