"""Figures of a challenge's labels, and the style of all figures."""

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
from cxrlt.reports.palette import GROUP_COLOURS, NEGATIVES_COLOUR
from cxrlt.system.atomic_files import atomic_path

DPI = 150  # our choice: sharp at the width of a README
WIDTH_INCHES = 8.0  # at the width of a README, text in figures is as large as its text
SMALL_FONT, NORMAL_FONT = 8, 9
INCHES_PER_CLASS = 0.27  # our choice: one line of text per class
MAX_CLASSES = 60
"""Most classes per figure. A figure of 1,000 classes is unreadable and needs too much memory."""
NO_FINDING = "no finding"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
GROUP_LABELS = {"head": "head, > 10 %", "medium": "medium", "tail": "tail, < 1 %"}


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Save a figure as PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def new_figure(height: float, width: float = WIDTH_INCHES) -> Figure:
    """Return an empty figure; height and width in inches. Its text is never mathtext."""
    return LiteralFigure(figsize=(width, height), layout="constrained")


def classes_by_count(labels: pd.DataFrame) -> list[str]:
    """Return class names from the most to the least frequent. `labels`: (n_images, n_classes)."""
    return list(labels.sum().sort_values(ascending=False, kind="stable").index)


def class_limit_note(n_classes: int) -> str:
    """Return the note for an axis that shows only the most frequent classes; empty if it shows all."""
    return f" (the {MAX_CLASSES} most frequent of {n_classes:,} classes)" if n_classes > MAX_CLASSES else ""


def display_name(class_name: str) -> str:
    """Return the class name with spaces for underscores."""
    return class_name.replace("_", " ")


def style_axes(axes: Axes) -> None:
    """Remove the top and right spines and set the font size of tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL_FONT)


def label_powers_of_ten(axis: Axis) -> None:
    """Label a logarithmic axis with powers of ten as plain text instead of mathtext."""
    axis.set_major_formatter(lambda value, _: f"10{f'{np.log10(value):.0f}'.translate(SUPERSCRIPT)}")
    axis.set_minor_formatter(NullFormatter())


def class_counts_figure(labels: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Figure:
    """Plot positives and negatives of every class (log scale), and the number of findings per image.

    `labels`: (n_images, n_classes) with 1, 0 or NaN. `groups`: names of the head, medium and tail classes.
    """
    names = classes_by_count(labels)[:MAX_CLASSES]
    figure = new_figure(INCHES_PER_CLASS * len(names) + 2.6)
    above, below = figure.subplots(2, 1, height_ratios=[INCHES_PER_CLASS * len(names) + 0.6, 1.6])
    _class_bars(above, labels[names], groups)
    above.set_xlabel(f"images{class_limit_note(labels.shape[1])}", fontsize=NORMAL_FONT)
    _findings_bars(below, labels)
    return figure


def _class_bars(axes: Axes, labels: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> None:
    positives, negatives = (labels == 1).sum(), (labels == 0).sum()
    group_of = {name: group for group, members in groups.items() for name in members}
    y = np.arange(len(positives))
    axes.barh(y + 0.2, negatives, 0.36, color=NEGATIVES_COLOUR, label="negatives", log=True)
    for group, colour in GROUP_COLOURS.items():
        rows = [row for row, name in enumerate(positives.index) if group_of.get(name) == group]
        if rows:
            axes.barh(
                y[rows] - 0.2,
                positives.iloc[rows],
                0.36,
                color=colour,
                label=f"positives ({GROUP_LABELS[group]})",
            )
    for row, count in zip(y, positives, strict=True):
        axes.text(max(count, 1) * 1.08, row - 0.2, f"{count:,}", va="center", fontsize=SMALL_FONT - 1)
    axes.set_yticks(y, [display_name(name) for name in positives.index])
    axes.set_ylim(len(y) - 0.4, -0.6)
    axes.set_xlim(left=0.8)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())  # matplotlib's default is mathtext
    style_axes(axes)
    axes.legend(
        fontsize=SMALL_FONT,
        frameon=False,
        ncols=4,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        borderaxespad=0.1,
    )


def _findings_bars(axes: Axes, labels: pd.DataFrame) -> None:
    """Plot the number of images with 0, 1, 2, ... findings."""
    findings = labels[[name for name in classes_by_count(labels) if display_name(name).lower() != NO_FINDING]]
    n_findings = (findings == 1).sum(axis=1).clip(upper=6)
    counts = n_findings.value_counts().reindex(range(int(n_findings.max()) + 1), fill_value=0)
    bars = axes.bar(counts.index, counts, 0.7, color=["#666666", *["#B3B3B3"] * (len(counts) - 1)])
    axes.bar_label(bars, [f"{count / len(labels):.0%}" for count in counts], fontsize=SMALL_FONT, padding=1)
    axes.set_xticks(
        counts.index, ["no finding", *(f"{n}" if n < 6 else "6 or more" for n in counts.index[1:])]
    )
    axes.set_xlabel("findings per image", fontsize=NORMAL_FONT)
    axes.set_ylabel("images", fontsize=NORMAL_FONT)
    axes.margins(y=0.2)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style_axes(axes)


def co_occurrence_figure(labels: pd.DataFrame) -> Figure:
    """Plot co-occurrence: of the images with the row's class, the share that also has the column's class.

    `labels`: (n_images, n_classes) with 1, 0 or NaN.
    """
    names = classes_by_count(labels)[:MAX_CLASSES]
    present = (labels[names] == 1).to_numpy(np.float64)
    counts = present.T @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / np.diag(counts)[:, None]
    np.fill_diagonal(share, np.nan)
    side = INCHES_PER_CLASS * len(names)
    figure = new_figure(max(side + 1.9, 3.5), max(side + 3.2, 5.0))
    axes = figure.subplots()
    axes.set_facecolor("#EEEEEE")
    image = axes.imshow(share, cmap="cividis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    ticks, words = np.arange(len(names)), [display_name(name) for name in names]
    axes.set_xticks(ticks, words, rotation=90)
    axes.set_yticks(ticks, words)
    axes.tick_params(labelsize=SMALL_FONT, length=0)
    axes.set_xlabel(f"share that also has …{class_limit_note(labels.shape[1])}", fontsize=NORMAL_FONT)
    axes.set_ylabel("images with …", fontsize=NORMAL_FONT)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.02, 0.1, 0.25, 0.5, 1], format="{x:.0%}")
    bar.ax.tick_params(labelsize=SMALL_FONT)
    return figure
