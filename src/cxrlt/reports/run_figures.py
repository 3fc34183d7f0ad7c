"""Figures of a run report, as SVG: curves of a class, of the training of every fold, and of the members."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import expit

from cxrlt.reports.figures import NORMAL_FONT, SMALL_FONT, new_figure, style_axes
from cxrlt.reports.loss_figures import precision_recall_curve, roc_curve
from cxrlt.reports.palette import BLUE, GREY, ORANGE, assign_styles
from cxrlt.system.atomic_files import atomic_path

N_POINTS = 100
"""Most points of a curve in a report: our choice, so that a page with many classes stays small."""
N_BINS = 10
"""Bins of a reliability diagram, with equally many images each: our choice."""
PANEL = 2.2  # inches


def save_svg(figure: Figure, path: Path) -> None:
    """Save a figure as SVG, whose bytes depend only on the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem})
    with settings, atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def class_figure(
    labels: NDArray[np.float64],
    logits: NDArray[np.float64],
    calibrated: NDArray[np.float64] | None,
) -> Figure:
    """Plot one class: precision-recall, ROC, reliability (if `calibrated` is given), histogram of logits.

    All arrays are (n,): labels 1 and 0 without NaN, logits, and calibrated logits of nested calibration.
    """
    positive = labels == 1
    figure = new_figure(2 * PANEL, 2.6 * PANEL)  # readable on a phone
    (recall_axes, roc_axes), (reliability, histogram) = figure.subplots(2, 2)
    _curve(recall_axes, *precision_recall_curve(positive, logits))
    recall_axes.axhline(positive.mean(), color=GREY, linewidth=0.8, linestyle=":")
    recall_axes.set(xlabel="recall", ylabel="precision")
    _curve(roc_axes, *roc_curve(positive, logits))
    roc_axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    roc_axes.set(xlabel="false positive rate", ylabel="true positive rate")
    for axes in (recall_axes, roc_axes):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _reliability(
        reliability, positive, {"raw": logits} | ({} if calibrated is None else {"calibrated": calibrated})
    )
    bins = np.histogram_bin_edges(logits, 30).tolist()
    for chosen, colour, label in ((~positive, GREY, "negative"), (positive, ORANGE, "positive")):
        histogram.hist(logits[chosen], bins, density=True, histtype="step", color=colour, label=label)
    histogram.set(xlabel="logit", ylabel="density")
    histogram.legend(fontsize=SMALL_FONT - 1, frameon=False)
    for axes in (recall_axes, roc_axes, reliability, histogram):
        style_axes(axes)
        axes.xaxis.label.set_size(SMALL_FONT)
        axes.yaxis.label.set_size(SMALL_FONT)
    return figure


def _curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    shown = np.unique(np.linspace(0, len(x) - 1, N_POINTS).round().astype(int))
    axes.plot(x[shown], y[shown], color=BLUE, linewidth=1.2)


def _reliability(axes: Axes, positive: NDArray[np.bool_], logits: Mapping[str, NDArray[np.float64]]) -> None:
    """Plot the share of positives against the mean probability, in bins with equally many images."""
    highest = 0.0
    for (label, values), colour in zip(logits.items(), (GREY, BLUE), strict=False):
        p = expit(values)
        bins = np.array_split(np.argsort(p, kind="stable"), N_BINS)
        means, shares = np.array([(p[rows].mean(), positive[rows].mean()) for rows in bins if len(rows)]).T
        axes.plot(means, shares, "o-", color=colour, markersize=3, linewidth=1, label=label)
        highest = max(highest, means.max(), shares.max())
    axes.plot([0, highest], [0, highest], color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="mean probability", ylabel="share of positives")
    axes.legend(fontsize=SMALL_FONT - 1, frameon=False)


def training_figure(logs: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Plot loss and out-of-fold metric of every epoch. `logs`: log.csv by fold, one row per epoch."""
    figure = new_figure(2.6)
    loss_axes, score_axes = figure.subplots(1, 2)
    for fold, (colour, dash) in assign_styles(list(logs)).items():
        log = logs[fold]
        for axes, column in ((loss_axes, "loss"), (score_axes, f"oof_{metric}")):
            axes.plot(log["epoch"], log[column], color=colour, linestyle=dash, linewidth=1.2, label=fold)
    for axes, label in ((loss_axes, "training loss"), (score_axes, f"{metric} of left-out rows")):
        axes.set_xlabel("epoch", fontsize=NORMAL_FONT)
        axes.set_ylabel(label, fontsize=NORMAL_FONT)
        axes.xaxis.get_major_locator().set_params(integer=True)
        style_axes(axes)
    loss_axes.legend(fontsize=SMALL_FONT, frameon=False)
    return figure


def correlation_figure(correlation: pd.DataFrame) -> Figure:
    """Plot the correlation (n_members, n_members) of the members' scores."""
    side = 0.5 * len(correlation) + 2
    figure = new_figure(side, side + 1)
    axes = figure.subplots()
    low = min(float(correlation.to_numpy().min()), 0.9)
    image = axes.imshow(correlation, cmap="cividis", vmin=low, vmax=1)
    ticks, names = np.arange(len(correlation)), [str(name) for name in correlation]
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    for (row, column), value in np.ndenumerate(correlation.to_numpy()):
        colour = "white" if value < (low + 1) / 2 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=SMALL_FONT, color=colour)
    axes.tick_params(labelsize=SMALL_FONT, length=0)
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure
