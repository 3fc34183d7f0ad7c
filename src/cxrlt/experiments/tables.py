"""What the tables of all experiments share, as data frames of plain numbers and as text."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrlt.experiments.differences import Compared, TruthResult
from cxrlt.system.atomic_files import atomic_path

Row = dict[str, object]


def class_rows(result: TruthResult) -> list[Row]:
    """One row per variant, truth and class: means over seeds."""
    return [
        {"truth": result.truth.name, "variant": row.name, "class": name, **values}
        for row in result.compared
        for name, values in row.classes.to_dict("index").items()
    ]


def compared_values(row: Compared) -> Row:
    """Every metric's mean, spread and difference, and what comes of the challenge's."""
    values: Row = {}
    for key, mean in row.means.items():
        values |= {key: mean, f"{key} sd over seeds": row.spreads[key]}
    for key, interval in row.differences.items():
        values |= {f"{key} difference": interval.value}
        values |= {f"{key} difference low": interval.low, f"{key} difference high": interval.high}
    return values | {"standard error of the difference": row.error, "verdict": row.verdict}


def difference_of(row: Row, metric: str) -> str:
    """The difference that `compared_values` holds, with its interval, for a person to read."""
    value, low, high = (signed(row[f"{metric} difference{end}"]) for end in ("", " low", " high"))
    return f"{value} [{low}, {high}]"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def class_table(result: TruthResult) -> tuple[list[str], list[list[str]]]:
    """The first figure of every class, the most frequent first, a column per variant."""
    names = list(result.truth.labels.sum().sort_values(ascending=False, kind="stable").index)
    figure = result.compared[0].classes.columns[0]
    positives = (result.truth.labels == 1).sum()
    rows = [
        [name, f"{positives[name]:,}", *(number(row.classes.loc[name, figure]) for row in result.compared)]
        for name in names
    ]
    return [f"{figure} of class", "positives", *(row.name for row in result.compared)], rows


def number_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of rows of numbers and words, the truth left out."""
    headings = [key for key in rows[0] if key != "truth"]
    cells = [
        [number(row[key]) if isinstance(row[key], float) else str(row[key]) for key in headings]
        for row in rows
    ]
    return headings, cells


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def with_spread(value: float, spread: float) -> str:
    return number(value) if math.isnan(spread) else f"{number(value)} ± {number(spread)}"
