"""The figures and tables of a run report: saved as files, and shown on the page."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlt.metrics import Interval
from cxrlt.reports.figures import save_figure
from cxrlt.reports.page import PageFigure, PageTable
from cxrlt.reports.run_figures import save_svg
from cxrlt.system.atomic_files import atomic_path

PICTURE_DPI = 90
"""Our choice: a page with 40 classes stays below 8 MB."""
Row = dict[str, Any]
"""One row of a table: values by column. `x low` and `x high` are the ends of the interval of column x."""


@dataclass(frozen=True)
class ReportFiles:
    """The folder of a report."""

    folder: Path

    def figure(self, name: str, caption: str, figure: Figure) -> PageFigure:
        """Save a figure as SVG and return it."""
        path = self.folder / "figures" / f"{name}.svg"
        save_svg(figure, path)
        return PageFigure(caption, path)

    def picture(self, name: str, caption: str, figure: Figure) -> PageFigure:
        """Save a figure with images as PNG and return it."""
        path = self.folder / "figures" / f"{name}.png"
        save_figure(figure, path, PICTURE_DPI)
        return PageFigure(caption, path)

    def clear(self) -> None:
        """Remove the figures and tables of an earlier report, which may have shown images or other runs."""
        for part in ("figures", "tables"):
            shutil.rmtree(self.folder / part, ignore_errors=True)

    def table(self, name: str, caption: str, rows: Sequence[Row]) -> PageTable:
        """Write the rows as CSV, and return them as a sortable table with formatted cells."""
        path = self.folder / "tables" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        shown = [key for key in rows[0] if not key.endswith((" low", " high"))] if rows else []
        cells = [[_cell(row, key) for key in shown] for row in rows]
        values = [[_sort_value(row[key]) for key in shown] for row in rows]
        return PageTable(caption, shown, cells, values, sortable=True)


def _cell(row: Row, key: str) -> str:
    if f"{key} low" in row and row[key] == row[key]:
        return f"{_number(row[key])} [{_number(row[f'{key} low'])}, {_number(row[f'{key} high'])}]"
    return _number(row[key])


def _sort_value(value: object) -> float | str:
    return float(value) if isinstance(value, int | float | np.number) else str(value)


def _number(value: object) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def format_interval(interval: Interval, *, signed: bool = False) -> str:
    """Return a value with the ends of its interval."""
    sign = "+" if signed else ""
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """Return the three columns of a value and its interval."""
    return {name: interval.value, f"{name} low": interval.low, f"{name} high": interval.high}
