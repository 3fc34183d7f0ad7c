"""A second reader of tables and submissions, with Python's csv module only, to find wrong values."""

import csv
import io
import math
from pathlib import Path

from layouts import TableLayout

VALUES = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "": math.nan}
# the name of the column in the next year
PATHS = {"fpath": ("path",), "path": ("path", "fpath")}
Labels = dict[str, tuple[str | None, str, dict[str, float]]]


def parse_cells(content: bytes) -> list[list[str]]:
    """Return the cells of every row that is not blank."""
    return [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]


def parse_table(path: Path, layout: TableLayout) -> Labels:
    """Return patient (None: not in this table), path and labels by image."""
    header, *rows = parse_cells(path.read_bytes())
    names = [name.strip() for name in header]
    if layout.challenge == "cxrlt2026-task1" and names.count("") == len(layout.classes):
        blanks = iter(layout.classes)
        names = [name or next(blanks) for name in names]
    table = {}
    for row in rows:
        assert len(row) == len(names), "a row of another length was accepted"
        cells = {name: cell.strip() for name, cell in zip(names, row, strict=True)}
        labels = _findings(cells, layout) if layout.findings else _labels(cells, layout)
        assert cells[layout.image] not in table, "a duplicate image was accepted"
        path = next(name for name in (*PATHS.get(layout.path, ()), layout.path) if name in cells)
        patient = cells[layout.patient] if layout.patient else None
        table[cells[layout.image]] = patient, cells[path] + layout.suffix, labels
    return table


def _labels(cells: dict[str, str], layout: TableLayout) -> dict[str, float]:
    return {name: VALUES[cells[name]] for name in layout.classes}


def _findings(cells: dict[str, str], layout: TableLayout) -> dict[str, float]:
    found = [name.strip() for name in cells[layout.findings or ""].split("|")]
    assert set(found) <= {*layout.classes, "No Finding"}, "an unknown finding was accepted"
    return {name: float(name in found) for name in layout.classes}


def parse_submission(content: bytes) -> tuple[list[str], dict[str, list[float]]]:
    """Return the header, and the numbers by id. Lines of spaces are skipped, as in pandas."""
    header, *rows = (row for row in parse_cells(content) if len(row) > 1 or row[0].strip(" \t"))
    numbers = {}
    for row in rows:
        assert len(row) == len(header), "a row of another length was accepted"
        assert row[0] not in numbers, "a duplicate id was accepted"
        numbers[row[0]] = [float(cell) for cell in row[1:]]
    return header, numbers


def equal_or_both_nan(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))
