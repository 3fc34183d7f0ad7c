"""Figures that compare losses. Each loss has the same colour in all figures."""

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
    MAX_CLASSES,
    NORMAL_FONT,
    SMALL_FONT,
    WIDTH_INCHES,
    class_limit_note,
    classes_by_count,
    display_name,
    label_powers_of_ten,
    new_figure,
    style_axes,
)
from cxrlt.reports.palette import assign_styles

N_COLUMNS, PANEL_INCHES, TITLE_WIDTH = 5, 1.62, 25
MAX_CURVE_POINTS = 400  # per curve: more points are not visible
MAX_CELL_TEXTS = 12  # our choice: larger confusion matrices show no numbers
MIN_LOSS = 1e-6  # our choice: smaller losses are not plotted

Curve = tuple[np.ndarray, np.ndarray]
"""Two arrays (k,): x and y, or the loss of positives and of negatives."""


def loss_curves_figure(
    p: np.ndarray, curves: Mapping[str, Mapping[str, Curve]], panel_titles: Mapping[str, str]
) -> Figure:
    """Plot the loss of a positive (top) and of a negative (bottom) against the probability `p` (n,).

    `curves[loss][class]`: both losses (n,). `panel_titles[class]`: title of a column. One line per loss.
    """
    figure = new_figure(5.4)
    grid = figure.subplots(2, len(panel_titles), sharex=True, sharey="row", squeeze=False)
    for row, sign in enumerate(("positive", "negative")):
        for axes, (name, title) in zip(grid[row], panel_titles.items(), strict=True):
            _plot_loss_lines(axes, p, {loss: by_class[name][row] for loss, by_class in curves.items()})
            axes.set_yscale("log")
            label_powers_of_ten(axes.yaxis)
            axes.grid(alpha=0.25)
            axes.set_title(title if row == 0 else "", fontsize=SMALL_FONT)
            style_axes(axes)
        grid[row][0].set_ylabel(f"loss of a {sign}", fontsize=NORMAL_FONT)
        grid[row][0].set_ylim(bottom=MIN_LOSS if row else 1e-4)
    for axes in grid[-1]:
        axes.set_xlabel("predicted probability", fontsize=NORMAL_FONT)
    _add_legend(figure, list(curves))
    return figure


def _plot_loss_lines(axes: Axes, p: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    """Plot one line per loss. A line that covers others is dashed, so that they stay visible."""
    plotted: list[np.ndarray] = []
    for loss, (colour, dash) in assign_styles(list(curves)).items():
        n_covered = sum(np.allclose(curves[loss], other, rtol=0.02, atol=MIN_LOSS) for other in plotted)
        style = (0, (4, 4 * n_covered)) if n_covered else dash
        shown = np.where(curves[loss] > MIN_LOSS, curves[loss], np.nan)
        axes.plot(p, shown, color=colour, linestyle=style, linewidth=1.7)
        plotted.append(curves[loss])


def mean_probability_figure(means: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the mean predicted probability of positives (filled) and negatives (hollow), by class and loss.

    `means[loss]`: index classes, in the order of the rows; columns positives and negatives.
    """
    n_classes = len(next(iter(means.values())))
    means = {loss: frame.iloc[:MAX_CLASSES] for loss, frame in means.items()}
    names = list(next(iter(means.values())).index)
    figure, axes, lines = _class_lines(names, list(means))
    for loss, (places, colour) in lines.items():
        frame = means[loss]
        axes.hlines(places, frame["negatives"], frame["positives"], color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(frame["positives"], places, "o", color=colour, markersize=3.5)
        axes.plot(frame["negatives"], places, "o", color=colour, markersize=3.5, markerfacecolor="white")
    label = f"mean predicted probability: ● positives, ○ negatives{class_limit_note(n_classes)}"
    axes.set_xlabel(label, fontsize=NORMAL_FONT)
    return figure


def class_metric_figure(classes: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Plot the metric of every class with its interval, one colour per loss.

    `classes[loss]`: index classes, in the order of the rows; columns `metric`, "`metric` low" and "… high".
    """
    n_classes = len(next(iter(classes.values())))
    classes = {loss: frame.iloc[:MAX_CLASSES] for loss, frame in classes.items()}
    figure, axes, lines = _class_lines(list(next(iter(classes.values())).index), list(classes))
    for loss, (places, colour) in lines.items():
        frame = classes[loss]
        axes.hlines(places, frame[f"{metric} low"], frame[f"{metric} high"], color=colour, linewidth=0.8)
        axes.plot(frame[metric], places, "o", color=colour, markersize=3.5)
    label = f"{metric}, 95 % interval over patients{class_limit_note(n_classes)}"
    axes.set_xlabel(label, fontsize=NORMAL_FONT)
    return figure


def _class_lines(
    names: Sequence[str], losses: Sequence[str]
) -> tuple[Figure, Axes, dict[str, tuple[np.ndarray, str]]]:
    """Return a figure with a row per class and an axis from 0 to 1, and y (n_classes,) and colour by loss."""
    figure = new_figure(INCHES_PER_CLASS * len(names) * 1.15 + 1.3)
    axes = figure.subplots()
    offsets = np.linspace(-0.3, 0.3, len(losses)) if len(losses) > 1 else [0.0]
    for y in range(1, len(names), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
    axes.set_yticks(range(len(names)), [display_name(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    style_axes(axes)
    _add_legend(figure, losses)
    rows, styles = np.arange(len(names)), assign_styles(losses)
    lines = {loss: (rows + offset, styles[loss][0]) for loss, offset in zip(losses, offsets, strict=True)}
    return figure, axes, lines


def confusion_figure(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot a confusion matrix per loss: shares of a class (row) that are predicted as each class (column).

    `shares[loss]`: (n_classes, n_classes), with the same index and columns for all losses; NaN in the row of
    a class without images.
    """
    names = list(next(iter(shares.values())).index[:MAX_CLASSES])
    n_columns = min(2 if len(names) <= MAX_CELL_TEXTS else 1, len(shares))
    side = max(WIDTH_INCHES / 2, INCHES_PER_CLASS * len(names) + 1)
    n_rows = -(-len(shares) // n_columns)
    figure = new_figure(side * n_rows + 0.8, side * n_columns)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    ticks, words = np.arange(len(names)), [display_name(name) for name in names]
    for axes, (loss, frame) in zip(grid.flat, shares.items(), strict=False):
        cells = frame.loc[names, names].to_numpy()
        axes.set_facecolor("#EEEEEE")
        axes.imshow(cells, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(loss, fontsize=NORMAL_FONT)
        axes.set_xticks(ticks, words, rotation=90)
        axes.set_yticks(ticks, words)
        axes.tick_params(labelsize=SMALL_FONT, length=0)
        if len(names) <= MAX_CELL_TEXTS:
            for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
                value, colour = cells[row, column], "black" if cells[row, column] > 0.5 else "white"
                text = f"{value:.0%}".removesuffix("%")
                axes.text(column, row, text, ha="center", va="center", fontsize=SMALL_FONT - 1, color=colour)
    for axes in grid.flat[len(shares) :]:
        axes.set_visible(False)
    note = class_limit_note(len(next(iter(shares.values()))))
    figure.supxlabel(f"predicted class (%){note}", fontsize=NORMAL_FONT)
    figure.supylabel("class", fontsize=NORMAL_FONT)
    return figure


def roc_figure(labels: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the ROC curve of every class, one line per loss.

    `labels` and each of `scores`: (n_images, n_classes), with the same index.
    """
    figure, panels = _class_panels(labels, list(scores), "false positive rate")
    for name, axes in panels.items():
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
        _plot_curves(axes, labels[name], {loss: frame[name] for loss, frame in scores.items()}, roc_curve)
    figure.supylabel("true positive rate", fontsize=NORMAL_FONT)
    return figure


def precision_recall_figure(labels: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the precision-recall curve of every class; a grey line shows the prevalence.

    `labels` and each of `scores`: (n_images, n_classes), with the same index.
    """
    figure, panels = _class_panels(labels, list(scores), "recall")
    for name, axes in panels.items():
        axes.axhline(float(labels[name].mean()), color="#BBBBBB", linewidth=0.8)
        curves = {loss: frame[name] for loss, frame in scores.items()}
        _plot_curves(axes, labels[name], curves, precision_recall_curve)
    figure.supylabel("precision", fontsize=NORMAL_FONT)
    return figure


def differences_figure(
    differences: Mapping[str, Interval],
    metric: str,
    reference: str,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Plot every difference to `first` with its interval. Default `colours`: those of the losses."""
    if colours is None:
        colours = {name: colour for name, (colour, _) in assign_styles([reference, *differences]).items()}
    figure = new_figure(0.32 * len(differences) + 1.0)
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=0.8)
    for y, (name, interval) in enumerate(differences.items()):
        axes.plot([interval.low, interval.high], [y, y], color=colours[name], linewidth=2)
        axes.plot(interval.value, y, "o", color=colours[name], markersize=6)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel(f"{metric} minus {reference}, 95 % interval over patients", fontsize=NORMAL_FONT)
    axes.grid(axis="x", alpha=0.25)
    style_axes(axes)
    return figure


def sensitivity_figure(families: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot one panel per column: the value of every setting (index), one colour per family.

    A vertical line marks the first setting of each family.
    """
    settings = list(next(iter(families.values())).index)
    columns = list(next(iter(families.values())).columns)
    figure = new_figure(0.32 * len(settings) + 1.2)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for family, (colour, _) in assign_styles(list(families)).items():
            values = families[family][column].reindex(settings)
            axes.axvline(values.iloc[0], color=colour, linewidth=0.8, alpha=0.6)
            axes.plot(values, range(len(settings)), "o", color=colour, markersize=7)
        axes.set_xlabel(column, fontsize=NORMAL_FONT)
        axes.grid(axis="x", alpha=0.25)
        style_axes(axes)
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].set_ylim(len(settings) - 0.5, -0.5)
    _add_legend(figure, list(families))
    return figure


def roc_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Return false and true positive rates (k,) from (0, 0) to (1, 1), at every distinct score.

    `positive`: bool (n,). `score`: float (n,).
    """
    return metrics.roc_curve(positive, score, drop_intermediate=False)[:2]


def precision_recall_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Return recall and precision (k,) at every distinct score, the highest score first.

    `positive`: bool (n,). `score`: float (n,).
    """
    precision, recall, _ = metrics.precision_recall_curve(positive, score)
    return recall[-2::-1], precision[-2::-1]  # without scikit-learn's extra point at recall 0


def _class_panels(
    labels: pd.DataFrame, losses: Sequence[str], x_label: str
) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a panel per class that has positives and negatives, the most frequent first."""
    names = classes_by_count(labels)
    with_both = [name for name, yes in zip(names, has_both_values(labels[names]), strict=True) if yes]
    shown = with_both[:MAX_CLASSES]
    columns = min(N_COLUMNS, len(shown))
    n_rows = -(-len(shown) // columns)
    figure = new_figure(PANEL_INCHES * n_rows + 0.9, max(WIDTH_INCHES * columns / N_COLUMNS, 4))
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = dict(zip(shown, grid.flat, strict=False))
    for number, (name, axes) in enumerate(panels.items()):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        title = f"{display_name(name)} ({int((labels[name] == 1).sum()):,})"
        axes.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=SMALL_FONT - 1)
        axes.set_xticklabels(["0", ".5", "1"])
        axes.set_yticklabels(["0", ".5", "1"])
        style_axes(axes)
        axes.tick_params(labelbottom=number + columns >= len(shown))
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{x_label}{class_limit_note(len(with_both))}", fontsize=NORMAL_FONT)
    _add_legend(figure, losses)
    return figure, panels


def _plot_curves(
    axes: Axes,
    labels: pd.Series,
    scores: Mapping[str, pd.Series],
    curve: Callable[[np.ndarray, np.ndarray], Curve],
) -> None:
    known = labels.notna().to_numpy()
    positive = labels.to_numpy()[known] == 1
    for loss, (colour, dash) in assign_styles(list(scores)).items():
        x, y = curve(positive, scores[loss].to_numpy()[known])
        shown = np.unique(np.linspace(0, len(x) - 1, MAX_CURVE_POINTS).round().astype(int))
        axes.plot(x[shown], y[shown], color=colour, linestyle=dash, linewidth=1.1)


def _add_legend(figure: Figure, losses: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=loss)
        for loss, (colour, dash) in assign_styles(losses).items()
    ]
    n_columns = len(handles) if len(handles) <= 5 else 4
    figure.legend(
        handles=handles, loc="outside upper center", ncols=n_columns, fontsize=NORMAL_FONT, frameon=False
    )
