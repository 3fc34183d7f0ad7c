"""Files that a user names, read only if they are files, of a size that they may have, and text."""

import codecs
import csv
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from cxrlt.errors import LONGEST_ITEM, MissingFileError, UserError, shortened

LARGEST_LIST = 1 << 26
LARGEST_YAML = 1 << 18
DEEPEST_YAML = 20
BLOCK_BYTES = 1 << 20
HEADER_BYTES = 1 << 20
MOST_COLUMNS = 10_000
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
BEGINNINGS = {
    b"\x1f\x8b": "is packed with gzip. Unpack it first",
    b"PK\x03\x04": "is a zip file or a spreadsheet. Unpack it, or export it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet. Export it as CSV",
    b"PAR1\x15": "is a parquet file. Export it as CSV",
    b"\xff\xfe": "is in UTF-16. Save it as UTF-8",
    b"\xfe\xff": "is in UTF-16. Save it as UTF-8",
}
"""What a file is that begins so, although its name says text, and what to do."""


def require_file(path: Path, missing: str, largest: int) -> None:
    """Raises MissingFileError, which goes on with `missing`, if nothing is at `path`; links are followed.

    Raises UserError if that is no file, cannot be read, or has more than `largest` bytes.
    """
    shown = shortened(path, LONGEST_ITEM)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have that name
        if os.path.lexists(path):
            raise UserError(f"{shown} is a link to a file that does not exist. Fix or remove it.") from None
        raise MissingFileError(f"{shown} does not exist. {missing}".rstrip()) from None
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}. Fix that, or name another.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UserError(f"{shown} is {kind} where a file should be. Name the file itself.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{shown} may not be read. Give yourself the right to read it.")
    if status.st_size > largest:
        raise UserError(
            f"{shown} has {status.st_size:,} bytes, of at most {largest:,}. Is it the right file?"
        )


def require_text(file: BinaryIO, path: Path) -> None:
    """Raises UserError, with the line, unless the bytes of `file` to its end are UTF-8 text without NUL."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_lines = 0
    while True:
        block = file.read(BLOCK_BYTES)
        if not n_lines and (found := next((b for b in BEGINNINGS if block.startswith(b)), None)):
            raise UserError(f"{path} {BEGINNINGS[found]}.")
        if (place := block.find(b"\0")) >= 0:
            line = n_lines + block.count(b"\n", 0, place) + 1
            raise UserError(
                f"{path} is no text: it holds a NUL character in line {line}. If it is in UTF-16, save it as "
                "UTF-8; if it was cut short or damaged, fetch it again."
            )
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = n_lines + error.object.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path} is not in UTF-8: see byte 0x{error.object[error.start]:02x} in line {line}. "
                "Save it as UTF-8 (in a spreadsheet: CSV UTF-8)."
            ) from None
        if not block:
            return
        n_lines += block.count(b"\n")


def count_columns(file: BinaryIO, path: Path) -> int:
    """The cells of a CSV file's first row that is not blank. Raises UserError if it has none or too many."""
    file.seek(0)
    start = file.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    try:
        header = next(filter(None, csv.reader(io.StringIO(start, newline=""))), None)
    except csv.Error as error:
        raise UserError(f"{path} does not begin with the names of columns ({error}).") from error
    if header is None:
        raise UserError(f"{path} is empty. If it was cut short, fetch it again.")
    if len(header) > MOST_COLUMNS:
        raise UserError(
            f"{path} has {len(header):,} columns; {MOST_COLUMNS:,} are the most. Are they its rows?"
        )
    return len(header)


def read_text(path: Path, missing: str, largest: int = LARGEST_LIST) -> str:
    """The text of a file, without a byte order mark. Raises as `require_file` and `require_text`."""
    require_file(path, missing, largest)
    with path.open("rb") as file:
        require_text(file, path)
        file.seek(0)
        return file.read().decode("utf-8-sig")


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values: no tag, no alias (a page of them can stand for terabytes), no key twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "an alias: write the value out", event.start_mark)
        if event.tag is not None:
            raise yaml.MarkedYAMLError(None, None, "a tag (!): leave it out", event.start_mark)
        if self.depth == DEEPEST_YAML:
            raise yaml.MarkedYAMLError(None, None, f"more than {self.depth} levels", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            _refuse_keys_twice(node)
        return node


def _refuse_keys_twice(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                problem = f"the key {shortened(key.value)!r} twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)


def read_yaml(path: Path, missing: str, example: str) -> dict[str, Any]:
    """The mapping in a YAML file of plain values, whose keys are text.

    Raises MissingFileError, or UserError with line and column; one for other YAML than a mapping goes on with
    `example`.
    """
    text = read_text(path, missing, LARGEST_YAML)
    try:
        content = PlainLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path} is not valid YAML: {place}{shortened(error.problem)}.") from error
    # the 31st of February is a ValueError, 1:1:1 and so forth may overflow
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"{path} is not valid YAML: {problem}.") from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} should hold {example}.")
    return content
