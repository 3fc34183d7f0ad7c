"""Read files that a user names: only regular files of a limited size, and text in UTF-8."""

import codecs
import csv
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml

from cxrlt.errors import MAX_ITEM_CHARS, MissingFileError, UserError, shortened

MAX_TEXT_BYTES = 1 << 26
"""64 MB, for lists of image ids: the 377,110 ids of CXR-LT 2024 have 17 MB."""
MAX_YAML_BYTES = 1 << 18
"""256 KB: a recipe or challenge with thousands of classes needs less."""
MAX_YAML_DEPTH = 20  # recipes have 3 levels; deeper nesting could overflow the parser's stack
BLOCK_BYTES = 1 << 20  # bytes that are checked at once
HEADER_BYTES = 1 << 20  # the first row of a CSV file must be within these
MAX_COLUMNS = 10_000
"""More columns than any challenge has classes: the file is probably transposed."""
FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MAGIC_BYTES = {
    b"\x1f\x8b": "is compressed with gzip. Unpack it first",
    b"PK\x03\x04": "is a zip file or a spreadsheet. Unpack it, or export it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet. Export it as CSV",
    b"PAR1\x15": "is a parquet file. Export it as CSV",
    b"\xff\xfe": "is in UTF-16. Save it as UTF-8",
    b"\xfe\xff": "is in UTF-16. Save it as UTF-8",
}
"""First bytes of files that are not UTF-8 text: what the file is, and what to do."""


def require_file(path: Path, missing_hint: str, max_bytes: int) -> None:
    """Raise MissingFileError, with `missing_hint`, if `path` does not exist. Links are followed.

    Raises UserError if `path` is not a file, cannot be read, or has more than `max_bytes` bytes.
    """
    shown = shortened(path, MAX_ITEM_CHARS)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not a valid file name
        if os.path.lexists(path):
            raise UserError(f"{shown} is a link to a file that does not exist. Fix or remove it.") from None
        raise MissingFileError(f"{shown} does not exist. {missing_hint}".rstrip()) from None
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}. Fix it, or name another file.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = FILE_KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UserError(f"{shown} is {kind}, not a file. Name the file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{shown} cannot be read: permission denied. Change its permissions.")
    if status.st_size > max_bytes:
        raise UserError(
            f"{shown} has {status.st_size:,} bytes; at most {max_bytes:,} are allowed. Is it the right file?"
        )


def require_text(file: BinaryIO, path: Path) -> None:
    """Raise UserError, with the line, if the rest of `file` is not UTF-8 text or contains a NUL character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_lines = 0
    while True:
        block = file.read(BLOCK_BYTES)
        if not n_lines and (found := next((b for b in MAGIC_BYTES if block.startswith(b)), None)):
            raise UserError(f"{path} {MAGIC_BYTES[found]}.")
        if (position := block.find(b"\0")) >= 0:
            line = n_lines + block.count(b"\n", 0, position) + 1
            raise UserError(
                f"{path} is not a text file: it contains a NUL character in line {line}. If it is in UTF-16, "
                "save it as UTF-8; if it is truncated or damaged, download it again."
            )
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = n_lines + error.object.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path} is not in UTF-8: invalid byte 0x{error.object[error.start]:02x} in line {line}. "
                "Save it as UTF-8 (in a spreadsheet: CSV UTF-8)."
            ) from None
        if not block:
            return
        n_lines += block.count(b"\n")


def count_columns(file: BinaryIO, path: Path, separator: str = ",") -> int:
    """Return the number of columns of a CSV file's first row that is not blank.

    Raises UserError if the file is empty, has too many columns, or its first row cannot be parsed.
    """
    file.seek(0)
    start = file.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    try:
        header = next(filter(None, csv.reader(io.StringIO(start, newline=""), delimiter=separator)), None)
    except csv.Error as error:
        raise UserError(f"{path} does not begin with column names ({error}).") from error
    if header is None:
        raise UserError(f"{path} is empty. If it is truncated, download it again.")
    if len(header) > MAX_COLUMNS:
        raise UserError(
            f"{path} has {len(header):,} columns; at most {MAX_COLUMNS:,} are allowed. "
            "Is the table transposed?"
        )
    return len(header)


def read_text(path: Path, missing_hint: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file, without a byte order mark. Raises as `require_file` and `require_text`."""
    require_file(path, missing_hint, max_bytes)
    with path.open("rb") as file:
        require_text(file, path)
        file.seek(0)
        return file.read().decode("utf-8-sig")


class PlainLoader(yaml.SafeLoader):
    """YAML without tags, aliases (a short file of aliases can expand to terabytes) and duplicate keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Check a node before composing it. Raises MarkedYAMLError for what is not allowed."""
        event = self.peek_event()
        mark = cast(yaml.error.Mark, event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "an alias: write the value out", mark)
        if event.tag is not None:
            raise yaml.MarkedYAMLError(None, None, "a tag (!): remove it", mark)
        if self.depth == MAX_YAML_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"more than {self.depth} levels", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicate_keys(node)
        return node


def _refuse_duplicate_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                problem = f"the key {shortened(key.value)!r} twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)


def read_yaml(path: Path, missing_hint: str, example: str) -> dict[str, Any]:
    """Return the mapping in a YAML file of plain values with text keys.

    Raises MissingFileError, or UserError with line and column. `example` is the end of the error message for
    YAML that is not a mapping.
    """
    text = read_text(path, missing_hint, MAX_YAML_BYTES)
    try:
        content = PlainLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path} is not valid YAML: {position}{shortened(error.problem)}.") from error
    # a date like 2024-02-31 is a ValueError; a base-60 number like 1:1:1 may overflow
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"{path} is not valid YAML: {problem}.") from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} should contain {example}.")
    return dict(content)
