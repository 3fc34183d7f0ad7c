"""The figures of an experiment, from its finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cxrlt.challenges.base import Challenge
from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.losses.score import GAP, pooled_scores, read_logits
from cxrlt.experiments.plan import Run
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
    settings_figure,
)
from cxrlt.training.setup import loss_of
from cxrlt.training.train import fold_jobs

MOST_LINES = 8  # in one panel; of more variants only those are drawn that others are tuned as
P = np.linspace(0.002, 0.998, 499)


@dataclass(frozen=True)
class ExperimentFigures:
    """By what they are about."""

    labels: Sequence[PageFigure]
    losses: Sequence[PageFigure]
    results: Mapping[str, Sequence[PageFigure]]


def draw(
    experiment: LossExperiment, runs: Sequence[Run], results: Sequence[TruthResult]
) -> ExperimentFigures:
    """Write every figure as PNG into the results' folder. Curves over rows are of seed 0."""
    labels = results[0].truth.labels
    firsts = [run for run in runs if run.seed == 0]
    if len(firsts) > MOST_LINES:
        firsts = [run for run in firsts if run.variant == experiment.variant_of(run.variant).tuning]
    shown = {run.variant for run in firsts}
    own = [run for run in runs if run.variant in shown]
    return ExperimentFigures(
        labels=_labels(experiment, labels),
        losses=[_loss_curves(experiment, firsts)],
        results={
            result.truth.name: [
                *_differences(experiment, result),
                _mean_probabilities(experiment, own, result),
                *_curves(experiment, firsts, result),
            ]
            for result in results
        },
    )


def _labels(experiment: LossExperiment, labels: pd.DataFrame) -> list[PageFigure]:
    counts = class_counts_figure(labels, experiment.challenge.groups)
    caption = "Positives and negatives of every class, and findings per image."
    figures = [_save(experiment, "class_counts", counts, caption)]
    if experiment.challenge.task == "multi_label":
        together = co_occurrence_figure(labels)
        figures.append(_save(experiment, "co_occurrence", together, "Which findings come together."))
    return figures


def _loss_curves(experiment: LossExperiment, runs: Sequence[Run]) -> PageFigure:
    (job,) = fold_jobs(experiment.source, runs[0].plan(experiment.folds[0], force=False))
    counts = job.data.class_counts
    examples = _example_classes(experiment.challenge, counts)
    curves = {}
    for run in runs:
        loss = loss_of(replace(job, run=replace(job.run, recipe=run.recipe)))
        curves[run.variant] = {
            name: loss_curve(loss, job.data.classes.index(name), P, len(job.data.classes))
            for name in examples
        }
    titles = {
        name: f"{readable(name)}\n({group}, {counts[name] / len(job.data.train):.1%})"
        for name, group in examples.items()
    }
    caption = (
        "Loss of a positive and of a negative against the predicted probability, for a class of each group."
    )
    if experiment.challenge.task == "single_label":
        caption += " Softmax losses: the other classes share the rest evenly; a negative is a row of another."
    return _save(experiment, "loss_curves", loss_curves_figure(P, curves, titles), caption)


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
        own = sorted(
            (name for name in challenge.groups[group] if counts[name]), key=lambda name: -counts[name]
        )
        if own:
            chosen[own[round(place * (len(own) - 1))]] = group
    return chosen


def _mean_probabilities(experiment: LossExperiment, runs: Sequence[Run], result: TruthResult) -> PageFigure:
    labels = result.truth.labels
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        logits = read_logits(experiment, run).drop(columns="fold")
        predicted, known = probabilities(logits, experiment.challenge.task), labels.loc[logits.index]
        means = {
            "positives": predicted.where(known == 1).mean(),
            "negatives": predicted.where(known == 0).mean(),
        }
        parts.setdefault(run.variant, []).append(pd.DataFrame(means).loc[by_count(labels)])
    figure = mean_probability_figure({name: sum(frames) / len(frames) for name, frames in parts.items()})
    caption = (
        "Mean predicted probability of the positives and of the negatives of every class, mean over seeds."
    )
    return _save(experiment, f"probabilities_{result.truth.name}", figure, caption)


def _curves(experiment: LossExperiment, runs: Sequence[Run], result: TruthResult) -> list[PageFigure]:
    scores = {run.variant: pooled_scores(experiment.challenge, read_logits(experiment, run)) for run in runs}
    rows = next(iter(scores.values())).index
    labels = result.truth.labels.loc[rows]
    scores = {name: frame.loc[rows] for name, frame in scores.items()}
    name = result.truth.name
    return [
        _save(
            experiment,
            f"roc_{name}",
            roc_figure(labels, scores),
            "ROC curve of every class (positives), seed 0.",
        ),
        _save(
            experiment,
            f"precision_recall_{name}",
            precision_recall_figure(labels, scores),
            "Precision-recall curve of every class (positives), seed 0; grey: the share of positives.",
        ),
    ]


def _differences(experiment: LossExperiment, result: TruthResult) -> list[PageFigure]:
    metric, name = experiment.challenge.metric, result.truth.name
    first, *others = result.compared
    figures = []
    if others:
        figure = differences_figure({row.name: row.differences[metric] for row in others}, metric, first.name)
        caption = f"Difference to {first.name}; the noise of seeds is not in these intervals."
        figures.append(_save(experiment, f"differences_{name}", figure, caption))
    if experiment.plan.ablation == "ral_sensitivity":
        figures.append(
            _save(
                experiment, f"sensitivity_{name}", _settings(experiment, result), "Score and gap by setting."
            )
        )
    return figures


def _settings(experiment: LossExperiment, result: TruthResult) -> Figure:
    metric = experiment.challenge.metric
    families: dict[str, dict[str, dict[str, float]]] = {}
    family_of = {variant.name: variant.tuning for variant in experiment.variants}
    for row in result.compared:
        family = family_of[row.name]
        setting = row.name.removeprefix(family).removeprefix("-") or "paper"
        families.setdefault(family, {})[setting] = {metric: row.means[metric], "train − OOF": row.beside[GAP]}
    return settings_figure({name: pd.DataFrame(values).T for name, values in families.items()})


def _save(experiment: LossExperiment, name: str, figure: Figure, caption: str) -> PageFigure:
    path = experiment.results_dir / "figures" / f"{name}.png"
    save_figure(figure, path)
    return PageFigure(caption, path)
