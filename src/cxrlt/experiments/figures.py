"""Figures of an experiment's finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cxrlt.challenges.base import Challenge
from cxrlt.experiments.differences import WITHIN_NOISE, TruthResult
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.experiments.score import pooled_scores, read_logits
from cxrlt.losses import Loss, MultiLabelLoss, SingleLabelLoss
from cxrlt.predictions.standardise import to_probabilities
from cxrlt.reports.figures import (
    class_counts_figure,
    classes_by_count,
    co_occurrence_figure,
    display_name,
    save_figure,
)
from cxrlt.reports.loss_figures import (
    Curve,
    class_metric_figure,
    confusion_figure,
    differences_figure,
    loss_curves_figure,
    mean_probability_figure,
    precision_recall_figure,
    roc_figure,
)
from cxrlt.reports.page import PageFigure
from cxrlt.reports.palette import GREEN, GREY, VERMILLION
from cxrlt.training.plan import create_fold_jobs
from cxrlt.training.setup import create_fold_loss

VERDICT_COLOURS = {"higher": GREEN, "lower": VERMILLION, WITHIN_NOISE: GREY}
PROBABILITIES = np.linspace(0.002, 0.998, 499)


def save_experiment_figure(experiment: Experiment, name: str, figure: Figure, caption: str) -> PageFigure:
    """Save a figure as PNG in the experiment's results folder."""
    path = experiment.results_dir / "figures" / f"{name}.png"
    save_figure(figure, path)
    return PageFigure(caption, path)


def plot_differences(
    experiment: Experiment, result: TruthResult, caption: str, *, by_verdict: bool
) -> list[PageFigure]:
    """Plot every variant's difference to the reference, coloured by verdict or by variant.

    Returns an empty list if the reference is the only variant.
    """
    metric, (reference, *others) = experiment.challenge.metric, result.variant_results
    if not others:
        return []
    intervals = {row.name: row.differences[metric] for row in others}
    colours = {row.name: VERDICT_COLOURS[row.verdict] for row in others} if by_verdict else None
    figure = differences_figure(intervals, metric, reference.name, colours)
    return [save_experiment_figure(experiment, f"differences_{result.truth.name}", figure, caption)]


def plot_labels(experiment: Experiment, labels: pd.DataFrame) -> list[PageFigure]:
    """Plot class counts and, if images have several findings, co-occurrence.

    `labels`: index image_id, one column per class; 1, 0 or NaN.
    """
    counts = class_counts_figure(labels, experiment.challenge.groups)
    caption = "Positives and negatives of every class, and findings per image."
    figures = [save_experiment_figure(experiment, "class_counts", counts, caption)]
    if experiment.challenge.task == "multi_label":
        figure = co_occurrence_figure(labels)
        figures.append(
            save_experiment_figure(experiment, "co_occurrence", figure, "Co-occurrence of findings.")
        )
    return figures


def plot_loss_curves(experiment: Experiment, runs: Sequence[Run]) -> PageFigure:
    """Plot the loss of every run as a function of the predicted probability."""
    (job,) = create_fold_jobs(experiment.source, runs[0].plan(experiment.folds[0]))
    data, counts = job.data, job.data.class_counts
    examples = _example_classes(experiment.challenge, counts)
    curves = {}
    for run in runs:
        loss = create_fold_loss(replace(job, run=replace(job.run, recipe=run.recipe)))
        curves[run.variant.name] = {
            name: loss_curve(loss, data.classes.index(name), PROBABILITIES, len(data.classes))
            for name in examples
        }
    titles = {
        name: f"{display_name(name)}\n({group}, {counts[name] / len(data.train):.1%})"
        for name, group in examples.items()
    }
    caption = (
        "Loss of a positive and of a negative against the predicted probability, for one class of each group."
    )
    if experiment.challenge.task == "single_label":
        caption += " Softmax losses: the other classes share the rest evenly; a negative has another label."
    return save_experiment_figure(
        experiment, "loss_curves", loss_curves_figure(PROBABILITIES, curves, titles), caption
    )


def loss_curve(loss: Loss, class_index: int, p: np.ndarray, n_classes: int) -> Curve:
    """Return the loss of a positive and of a negative (n,) of the class with index `class_index`.

    The class is predicted with probability `p` (n,). With a softmax loss, the other classes share 1 - p
    evenly; the negative's loss is the mean over these classes as the label, minus its value at p[0].
    """
    logit = torch.logit(torch.from_numpy(p))
    logits = torch.zeros(len(p), n_classes, dtype=torch.float64)
    with torch.no_grad():
        if not isinstance(loss, SingleLabelLoss):
            logits[:, class_index] = logit
            multi_label_loss = cast(MultiLabelLoss, loss)
            positive, negative = multi_label_loss.positive(logits), multi_label_loss.negative(logits)
            return positive[:, class_index].numpy(), negative[:, class_index].numpy()
        logits[:, class_index] = (logit + np.log(n_classes - 1)) / loss.logit_scale
        loss_by_label = loss.per_class(logits).numpy()
        others = np.delete(loss_by_label, class_index, axis=1).mean(axis=1)
        return loss_by_label[:, class_index], others - others[0]


def _example_classes(challenge: Challenge, counts: Mapping[str, int]) -> dict[str, str]:
    """Return {class: group} of the most frequent head, the middle medium and the rarest tail class."""
    chosen = {}
    for group, quantile in (("head", 0.0), ("medium", 0.5), ("tail", 1.0)):
        with_positives = [name for name in challenge.groups[group] if counts[name]]
        by_frequency = sorted(with_positives, key=lambda name: -counts[name])
        if by_frequency:
            chosen[by_frequency[round(quantile * (len(by_frequency) - 1))]] = group
    return chosen


def plot_mean_probabilities(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> PageFigure:
    """Plot the mean predicted probability of every class's positives and negatives, by variant."""
    labels = result.truth.labels
    means_by_variant: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        logits = read_logits(experiment, run)
        predicted, known = to_probabilities(logits, experiment.challenge.task), labels.loc[logits.index]
        means = {
            "positives": predicted.where(known == 1).mean(),
            "negatives": predicted.where(known == 0).mean(),
        }
        means_by_variant.setdefault(run.variant.name, []).append(
            pd.DataFrame(means).loc[classes_by_count(labels)]
        )
    figure = mean_probability_figure(
        {name: sum(frames[1:], frames[0]) / len(frames) for name, frames in means_by_variant.items()}
    )
    caption = "Mean predicted probability of every class's positives and negatives, averaged over seeds."
    return save_experiment_figure(experiment, f"probabilities_{result.truth.name}", figure, caption)


def plot_classes(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> list[PageFigure]:
    """Plot the metric of every class with its interval and, with one class per image, confusion matrices."""
    names = classes_by_count(result.truth.labels)
    shown = {run.variant.name for run in runs}
    classes = {row.name: row.classes.loc[names] for row in result.variant_results if row.name in shown}
    metric = str(result.variant_results[0].classes.columns[0])
    caption = f"{metric} of every class, mean over seeds; the intervals do not include the noise of seeds."
    figure = class_metric_figure(classes, metric)
    figures = [save_experiment_figure(experiment, f"classes_{result.truth.name}", figure, caption)]
    if experiment.challenge.task == "single_label":
        figure = confusion_figure(_confusion_shares(experiment, runs, result.truth.labels[names]))
        caption = "Confusion matrices, mean over seeds: where the images of each class (row) go, in percent."
        figures.append(save_experiment_figure(experiment, f"confusion_{result.truth.name}", figure, caption))
    return figures


def _confusion_shares(
    experiment: Experiment, runs: Sequence[Run], labels: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return, by variant, the share of the images of a class (index) that are predicted as each (column)."""
    names, by_variant = list(labels), dict[str, list[pd.DataFrame]]()
    for run in runs:
        scores = pooled_scores(experiment, read_logits(experiment, run))
        known = labels.loc[scores.index, list(scores)].dropna()
        pairs = known.idxmax(axis=1), scores.loc[known.index].idxmax(axis=1)
        counts = pd.crosstab(*pairs).reindex(index=names, columns=names, fill_value=0)
        by_variant.setdefault(run.variant.name, []).append(counts.div(counts.sum(axis=1), axis=0))
    return {name: sum(frames[1:], frames[0]) / len(frames) for name, frames in by_variant.items()}


def plot_ranking_curves(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> list[PageFigure]:
    """Plot ROC and precision-recall curves. `runs` have seed 0."""
    scores = {run.variant.name: pooled_scores(experiment, read_logits(experiment, run)) for run in runs}
    rows = next(iter(scores.values())).index
    labels = result.truth.labels.loc[rows]
    scores = {name: frame.loc[rows] for name, frame in scores.items()}
    roc, precision_recall = roc_figure(labels, scores), precision_recall_figure(labels, scores)
    name, caption_end = result.truth.name, "curve of every class (number of positives), seed 0"
    return [
        save_experiment_figure(experiment, f"roc_{name}", roc, f"ROC {caption_end}."),
        save_experiment_figure(
            experiment,
            f"precision_recall_{name}",
            precision_recall,
            f"Precision-recall {caption_end}; grey: prevalence.",
        ),
    ]
