"""Figures that compare losses: one colour per loss in all of them."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn import metrics

from cxrlt.metrics import Interval, has_both_values
from cxrlt.reports.figures import (
    INCHES_PER_CLASS,
    MOST_CLASSES,
    NORMAL,
    SMALL,
    WIDTH,
    by_count,
    clean,
    label_powers_of_ten,
    new_figure,
    of_classes,
    readable,
)
from cxrlt.reports.palette import styles

COLUMNS, PANEL_INCHES, TITLE_LETTERS = 5, 1.62, 25
MOST_POINTS = 400  # of a curve: more are not seen
LOWEST_LOSS = 1e-6

Curve = tuple[np.ndarray, np.ndarray]


def loss_curves_figure(
    p: np.ndarray, curves: Mapping[str, Mapping[str, Curve]], panel_titles: Mapping[str, str]
) -> Figure:
    """Loss of a positive (above) and of a negative (below) against the predicted probability `p` (n,).

    `curves[loss][class]` are both losses (n,); `panel_titles[class]` heads a column. One line per loss.
    """
    figure = new_figure(5.4)
    grid = figure.subplots(2, len(panel_titles), sharex=True, sharey="row", squeeze=False)
    for row, sign in enumerate(("positive", "negative")):
        for axes, (name, title) in zip(grid[row], panel_titles.items(), strict=True):
            _loss_lines(axes, p, {loss: by_class[name][row] for loss, by_class in curves.items()})
            axes.set_yscale("log")
            label_powers_of_ten(axes.yaxis)
            axes.grid(alpha=0.25)
            axes.set_title(title if row == 0 else "", fontsize=SMALL)
            clean(axes)
        grid[row][0].set_ylabel(f"loss of a {sign}", fontsize=NORMAL)
        grid[row][0].set_ylim(bottom=LOWEST_LOSS if row else 1e-4)
    for axes in grid[-1]:
        axes.set_xlabel("predicted probability", fontsize=NORMAL)
    _legend(figure, list(curves))
    return figure


def _loss_lines(axes: Axes, p: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    """A line per loss; one that lies on top of others is dashed, so that those below show."""
    drawn: list[np.ndarray] = []
    for loss, (colour, dash) in styles(list(curves)).items():
        below = sum(np.allclose(curves[loss], other, rtol=0.02, atol=LOWEST_LOSS) for other in drawn)
        style = (0, (4, 4 * below)) if below else dash
        shown = np.where(curves[loss] > LOWEST_LOSS, curves[loss], np.nan)
        axes.plot(p, shown, color=colour, linestyle=style, linewidth=1.7)
        drawn.append(curves[loss])


def mean_probability_figure(means: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean predicted probability of a class's positives (filled) and negatives (hollow), per loss.

    `means[loss]` has the classes as index, in the order of the rows, and columns positives and negatives.
    """
    n_classes = len(next(iter(means.values())))
    means = {loss: frame.iloc[:MOST_CLASSES] for loss, frame in means.items()}
    names = list(next(iter(means.values())).index)
    figure = new_figure(INCHES_PER_CLASS * len(names) * 1.15 + 1.3)
    axes = figure.subplots()
    offsets = np.linspace(-0.3, 0.3, len(means)) if len(means) > 1 else [0.0]
    for offset, (loss, (colour, _)) in zip(offsets, styles(list(means)).items(), strict=True):
        places, frame = np.arange(len(names)) + offset, means[loss]
        axes.hlines(places, frame["negatives"], frame["positives"], color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(frame["positives"], places, "o", color=colour, markersize=3.5)
        axes.plot(frame["negatives"], places, "o", color=colour, markersize=3.5, markerfacecolor="white")
    for place in range(1, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
    axes.set_yticks(range(len(names)), [readable(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    label = f"mean predicted probability: ● positives, ○ negatives{of_classes(n_classes)}"
    axes.set_xlabel(label, fontsize=NORMAL)
    clean(axes)
    _legend(figure, list(means))
    return figure


def roc_figure(labels: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Figure:
    """ROC curve of every class, one line per loss. `labels` and each of `scores` have the same rows."""
    figure, panels = _panels(labels, list(scores), "false positive rate")
    for name, axes in panels.items():
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
        _lines(axes, labels[name], {loss: frame[name] for loss, frame in scores.items()}, roc_curve)
    figure.supylabel("true positive rate", fontsize=NORMAL)
    return figure


def precision_recall_figure(labels: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Figure:
    """Precision-recall curve of every class, one line per loss; grey: the class's share of positives."""
    figure, panels = _panels(labels, list(scores), "recall")
    for name, axes in panels.items():
        axes.axhline(float(labels[name].mean()), color="#BBBBBB", linewidth=0.8)
        curves = {loss: frame[name] for loss, frame in scores.items()}
        _lines(axes, labels[name], curves, precision_recall_curve)
    figure.supylabel("precision", fontsize=NORMAL)
    return figure


def differences_figure(
    differences: Mapping[str, Interval],
    metric: str,
    first: str,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Difference of every row to `first`, with its interval; without `colours` those of losses."""
    if colours is None:
        colours = {name: colour for name, (colour, _) in styles([first, *differences]).items()}
    figure = new_figure(0.32 * len(differences) + 1.0)
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=0.8)
    for place, (name, interval) in enumerate(differences.items()):
        axes.plot([interval.low, interval.high], [place, place], color=colours[name], linewidth=2)
        axes.plot(interval.value, place, "o", color=colours[name], markersize=6)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel(f"{metric} minus that of {first}, 95 % interval over patients", fontsize=NORMAL)
    axes.grid(axis="x", alpha=0.25)
    clean(axes)
    return figure


def settings_figure(families: Mapping[str, pd.DataFrame]) -> Figure:
    """One panel per column: its value for every setting (index), a colour per family; lines: the first."""
    settings = list(next(iter(families.values())).index)
    columns = list(next(iter(families.values())).columns)
    figure = new_figure(0.32 * len(settings) + 1.2)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for family, (colour, _) in styles(list(families)).items():
            values = families[family][column].reindex(settings)
            axes.axvline(values.iloc[0], color=colour, linewidth=0.8, alpha=0.6)
            axes.plot(values, range(len(settings)), "o", color=colour, markersize=7)
        axes.set_xlabel(column, fontsize=NORMAL)
        axes.grid(axis="x", alpha=0.25)
        clean(axes)
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].set_ylim(len(settings) - 0.5, -0.5)
    _legend(figure, list(families))
    return figure


def roc_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """False and true positive rates (k,) from (0, 0) to (1, 1), at every distinct score."""
    return metrics.roc_curve(positive, score, drop_intermediate=False)[:2]


def precision_recall_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Recall and precision (k,) at every distinct score, the highest first."""
    precision, recall, _ = metrics.precision_recall_curve(positive, score)
    return recall[-2::-1], precision[-2::-1]  # without the end point at recall 0, which no score has


def _panels(labels: pd.DataFrame, losses: Sequence[str], x_label: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for every class with both values, the most frequent first."""
    names = by_count(labels)
    with_both = [name for name, yes in zip(names, has_both_values(labels[names]), strict=True) if yes]
    both = with_both[:MOST_CLASSES]
    columns = min(COLUMNS, len(both))
    n_rows = -(-len(both) // columns)
    figure = new_figure(PANEL_INCHES * n_rows + 0.9, max(WIDTH * columns / COLUMNS, 4))
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = dict(zip(both, grid.flat, strict=False))
    for place, (name, axes) in enumerate(panels.items()):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        title = f"{readable(name)} ({int((labels[name] == 1).sum()):,})"
        axes.set_title(textwrap.fill(title, TITLE_LETTERS), fontsize=SMALL - 1)
        axes.set_xticklabels(["0", ".5", "1"])
        axes.set_yticklabels(["0", ".5", "1"])
        clean(axes)
        axes.tick_params(labelbottom=place + columns >= len(both))
    for axes in grid.flat[len(both) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{x_label}{of_classes(len(with_both))}", fontsize=NORMAL)
    _legend(figure, losses)
    return figure, panels


def _lines(
    axes: Axes,
    labels: pd.Series,
    scores: Mapping[str, pd.Series],
    curve: Callable[[np.ndarray, np.ndarray], Curve],
) -> None:
    known = labels.notna().to_numpy()
    positive = labels.to_numpy()[known] == 1
    for loss, (colour, dash) in styles(list(scores)).items():
        x, y = curve(positive, scores[loss].to_numpy()[known])
        shown = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
        axes.plot(x[shown], y[shown], color=colour, linestyle=dash, linewidth=1.1)


def _legend(figure: Figure, losses: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=loss)
        for loss, (colour, dash) in styles(losses).items()
    ]
    n_columns = len(handles) if len(handles) <= 5 else 4
    figure.legend(
        handles=handles, loc="outside upper center", ncols=n_columns, fontsize=NORMAL, frameon=False
    )
