"""Figures about a challenge's labels, and what all figures share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from cxrlt.inputs.contact_sheet import LiteralFigure
from cxrlt.reports.palette import GROUP_COLOURS, NEGATIVES
from cxrlt.system.atomic_files import atomic_path

DPI = 150
WIDTH = 8.0  # inches: at a README's width the letters are then about as large as its own
SMALL, NORMAL = 8, 9
INCHES_PER_CLASS = 0.27
MOST_CLASSES = 60
"""In one figure, the most frequent first: one of a thousand is unreadable and does not fit into memory."""
NO_FINDING = "no finding"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
GROUP = {"head": "head, > 10 %", "medium": "medium", "tail": "tail, < 1 %"}


def save_figure(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    return LiteralFigure(figsize=(width, height), layout="constrained")


def by_count(labels: pd.DataFrame) -> list[str]:
    """Class names from the most to the least frequent."""
    return list(labels.sum().sort_values(ascending=False, kind="stable").index)


def of_classes(n_classes: int) -> str:
    """What an axis says of the classes that a figure leaves out, if it does."""
    return f" (the {MOST_CLASSES} most frequent of {n_classes:,} classes)" if n_classes > MOST_CLASSES else ""


def readable(class_name: str) -> str:
    return class_name.replace("_", " ")


def clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def label_powers_of_ten(axis: Axis) -> None:
    """Numbers at the ticks of a logarithmic axis; matplotlib's own are mathematics, which no text here is."""
    axis.set_major_formatter(lambda value, _: f"10{f'{np.log10(value):.0f}'.translate(SUPERSCRIPT)}")
    axis.set_minor_formatter(NullFormatter())


def class_counts_figure(labels: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Figure:
    """Positives and negatives of every class on a logarithmic scale, and how many findings images have.

    `labels` (n, c) hold 1, 0 or NaN; `groups` name the head, medium and tail classes.
    """
    names = by_count(labels)[:MOST_CLASSES]
    figure = new_figure(INCHES_PER_CLASS * len(names) + 2.6)
    above, below = figure.subplots(2, 1, height_ratios=[INCHES_PER_CLASS * len(names) + 0.6, 1.6])
    _class_bars(above, labels[names], groups)
    above.set_xlabel(f"images{of_classes(labels.shape[1])}", fontsize=NORMAL)
    _findings_bars(below, labels)
    return figure


def _class_bars(axes: Axes, labels: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> None:
    positives, negatives = (labels == 1).sum(), (labels == 0).sum()
    group_of = {name: group for group, members in groups.items() for name in members}
    places = np.arange(len(positives))
    axes.barh(places + 0.2, negatives, 0.36, color=NEGATIVES, label="negatives", log=True)
    for group, colour in GROUP_COLOURS.items():
        own = [place for place, name in enumerate(positives.index) if group_of.get(name) == group]
        if own:
            axes.barh(
                places[own] - 0.2,
                positives.iloc[own],
                0.36,
                color=colour,
                label=f"positives ({GROUP[group]})",
            )
    for place, count in zip(places, positives, strict=True):
        axes.text(max(count, 1) * 1.08, place - 0.2, f"{count:,}", va="center", fontsize=SMALL - 1)
    axes.set_yticks(places, [readable(name) for name in positives.index])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_xlim(left=0.8)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())  # matplotlib's own is mathematics
    clean(axes)
    axes.legend(
        fontsize=SMALL, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), borderaxespad=0.1
    )


def _findings_bars(axes: Axes, labels: pd.DataFrame) -> None:
    """How many images have no finding, one, two, …"""
    findings = labels[[name for name in labels if readable(name).lower() != NO_FINDING]]
    n_findings = (findings == 1).sum(axis=1).clip(upper=6)
    counts = n_findings.value_counts().reindex(range(int(n_findings.max()) + 1), fill_value=0)
    bars = axes.bar(counts.index, counts, 0.7, color=["#666666", *["#B3B3B3"] * (len(counts) - 1)])
    axes.bar_label(bars, [f"{count / len(labels):.0%}" for count in counts], fontsize=SMALL, padding=1)
    axes.set_xticks(
        counts.index, ["no finding", *(f"{n}" if n < 6 else "6 or more" for n in counts.index[1:])]
    )
    axes.set_xlabel("findings per image", fontsize=NORMAL)
    axes.set_ylabel("images", fontsize=NORMAL)
    axes.margins(y=0.2)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    clean(axes)


def co_occurrence_figure(labels: pd.DataFrame) -> Figure:
    """Of the images with the class of a row, the share that also has the class of a column."""
    names = by_count(labels)[:MOST_CLASSES]
    present = (labels[names] == 1).to_numpy(np.float64)
    together = present.T @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        share = together / np.diag(together)[:, None]
    np.fill_diagonal(share, np.nan)
    side = INCHES_PER_CLASS * len(names)
    figure = new_figure(max(side + 1.9, 3.5), max(side + 3.2, 5.0))
    axes = figure.subplots()
    axes.set_facecolor("#EEEEEE")
    image = axes.imshow(share, cmap="cividis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    ticks, words = np.arange(len(names)), [readable(name) for name in names]
    axes.set_xticks(ticks, words, rotation=90)
    axes.set_yticks(ticks, words)
    axes.tick_params(labelsize=SMALL, length=0)
    axes.set_xlabel(f"… the share that also shows{of_classes(labels.shape[1])}", fontsize=NORMAL)
    axes.set_ylabel("of the images that show …", fontsize=NORMAL)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.02, 0.1, 0.25, 0.5, 1], format="{x:.0%}")
    bar.ax.tick_params(labelsize=SMALL)
    return figure
