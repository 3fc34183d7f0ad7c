"""The figures of an experiment, from its finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cxrlt.challenges.base import Challenge
from cxrlt.experiments.differences import WITHIN, TruthResult
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.experiments.score import pooled_scores, read_logits
from cxrlt.losses import Loss, SingleLabelLoss
from cxrlt.predictions.standardise import probabilities
from cxrlt.reports.experiment_page import PageFigure
from cxrlt.reports.figures import by_count, class_counts_figure, co_occurrence_figure, readable, save_figure
from cxrlt.reports.loss_figures import (
    Curve,
    differences_figure,
    loss_curves_figure,
    mean_probability_figure,
    precision_recall_figure,
    roc_figure,
)
from cxrlt.reports.palette import GREEN, GREY, VERMILLION
from cxrlt.training.setup import loss_of
from cxrlt.training.train import fold_jobs

COLOURS = {"higher": GREEN, "lower": VERMILLION, WITHIN: GREY}
P = np.linspace(0.002, 0.998, 499)


def save(experiment: Experiment, name: str, figure: Figure, caption: str) -> PageFigure:
    """Write a figure as PNG into the results' folder."""
    path = experiment.results_dir / "figures" / f"{name}.png"
    save_figure(figure, path)
    return PageFigure(caption, path)


def differences(
    experiment: Experiment, result: TruthResult, caption: str, *, by_verdict: bool
) -> list[PageFigure]:
    """Difference of every variant to the reference, coloured by verdict or by variant; none without any."""
    metric, (first, *others) = experiment.challenge.metric, result.compared
    if not others:
        return []
    intervals = {row.name: row.differences[metric] for row in others}
    colours = {row.name: COLOURS[row.verdict] for row in others} if by_verdict else None
    figure = differences_figure(intervals, metric, first.name, colours)
    return [save(experiment, f"differences_{result.truth.name}", figure, caption)]


def label_figures(experiment: Experiment, labels: pd.DataFrame) -> list[PageFigure]:
    counts = class_counts_figure(labels, experiment.challenge.groups)
    caption = "Positives and negatives of every class, and findings per image."
    figures = [save(experiment, "class_counts", counts, caption)]
    if experiment.challenge.task == "multi_label":
        together = co_occurrence_figure(labels)
        figures.append(save(experiment, "co_occurrence", together, "Which findings come together."))
    return figures


def loss_curves(experiment: Experiment, runs: Sequence[Run]) -> PageFigure:
    """The loss of every run against the predicted probability."""
    (job,) = fold_jobs(experiment.source, runs[0].plan(experiment.folds[0]))
    data, counts = job.data, job.data.class_counts
    examples = _example_classes(experiment.challenge, counts)
    curves = {}
    for run in runs:
        loss = loss_of(replace(job, run=replace(job.run, recipe=run.recipe)))
        curves[run.variant.name] = {
            name: loss_curve(loss, data.classes.index(name), P, len(data.classes)) for name in examples
        }
    titles = {
        name: f"{readable(name)}\n({group}, {counts[name] / len(data.train):.1%})"
        for name, group in examples.items()
    }
    caption = (
        "Loss of a positive and of a negative against the predicted probability, for a class of each group."
    )
    if experiment.challenge.task == "single_label":
        caption += " Softmax losses: the other classes share the rest evenly; a negative is a row of another."
    return save(experiment, "loss_curves", loss_curves_figure(P, curves, titles), caption)


def loss_curve(loss: Loss, place: int, p: np.ndarray, n_classes: int) -> Curve:
    """Loss of a positive and of a negative of class `place` predicted with probability `p` (n,).

    Of a softmax loss: all other classes share 1 - p evenly; a negative's loss is the mean over them as the
    label, minus what it is at the smallest p.
    """
    odds = torch.logit(torch.from_numpy(p))
    logits = torch.zeros(len(p), n_classes, dtype=torch.float64)
    with torch.no_grad():
        if not isinstance(loss, SingleLabelLoss):
            logits[:, place] = odds
            return loss.positive(logits)[:, place].numpy(), loss.negative(logits)[:, place].numpy()
        logits[:, place] = (odds + np.log(n_classes - 1)) / loss.logit_scale
        of_label = loss.per_class(logits).numpy()
        others = np.delete(of_label, place, axis=1).mean(axis=1)
        return of_label[:, place], others - others[0]


def _example_classes(challenge: Challenge, counts: Mapping[str, int]) -> dict[str, str]:
    """The most frequent head class, the middle medium one and the rarest tail one, with their groups."""
    chosen = {}
    for group, place in (("head", 0.0), ("medium", 0.5), ("tail", 1.0)):
        known = [name for name in challenge.groups[group] if counts[name]]
        own = sorted(known, key=lambda name: -counts[name])
        if own:
            chosen[own[round(place * (len(own) - 1))]] = group
    return chosen


def mean_probabilities(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> PageFigure:
    """Of the positives and of the negatives of every class, by variant."""
    labels = result.truth.labels
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        logits = read_logits(experiment, run)
        predicted, known = probabilities(logits, experiment.challenge.task), labels.loc[logits.index]
        means = {
            "positives": predicted.where(known == 1).mean(),
            "negatives": predicted.where(known == 0).mean(),
        }
        parts.setdefault(run.variant.name, []).append(pd.DataFrame(means).loc[by_count(labels)])
    figure = mean_probability_figure({name: sum(frames) / len(frames) for name, frames in parts.items()})
    caption = (
        "Mean predicted probability of the positives and of the negatives of every class, mean over seeds."
    )
    return save(experiment, f"probabilities_{result.truth.name}", figure, caption)


def ranking_curves(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> list[PageFigure]:
    """ROC and precision-recall curves of runs with seed 0."""
    scores = {run.variant.name: pooled_scores(experiment, read_logits(experiment, run)) for run in runs}
    rows = next(iter(scores.values())).index
    labels = result.truth.labels.loc[rows]
    scores = {name: frame.loc[rows] for name, frame in scores.items()}
    roc, precision_recall = roc_figure(labels, scores), precision_recall_figure(labels, scores)
    name, of_classes = result.truth.name, "curve of every class (positives), seed 0"
    return [
        save(experiment, f"roc_{name}", roc, f"ROC {of_classes}."),
        save(
            experiment,
            f"precision_recall_{name}",
            precision_recall,
            f"Precision-recall {of_classes}; grey: the share of positives.",
        ),
    ]
