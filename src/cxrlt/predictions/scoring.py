"""Metrics of a model, an ensemble or a file with confidence intervals, matched by id and class name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge, Task
from cxrlt.errors import UserError, listing
from cxrlt.metrics import (
    Bootstrap,
    BootstrapSamples,
    Interval,
    basic_interval,
    bootstrap,
    class_means,
    classification_bootstrap,
    has_both_values,
    macro_metrics,
    metric_names,
)
from cxrlt.spelling import other_spellings

ByClass = Mapping[str, tuple[np.ndarray, np.ndarray]]  # values (c,) and their draws (n_draws, c)


@dataclass(frozen=True)
class ClassScore:
    """Counts and metrics of one class.

    `metrics` are AP and AUROC; single-label tasks also have F1, precision and recall.
    """

    name: str
    group: str
    n_known: int
    n_positive: int
    metrics: Mapping[str, Interval]

    @property
    def prevalence(self) -> float:
        """Share of positives among the annotated rows; NaN without annotated rows."""
        return self.n_positive / self.n_known if self.n_known else float("nan")

    @property
    def lift(self) -> float:
        """AP over prevalence, which is the AP of random scores; NaN without positives."""
        return self.metrics["AP"].value / self.prevalence if self.n_positive else float("nan")


@dataclass(frozen=True)
class MacroScore:
    """Metrics of `n_classes` classes together, by name, each with its confidence interval."""

    n_classes: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class BootstrapMetrics:
    """Values and bootstrap samples of metrics: of each class, over all classes, and over each class group."""

    by_class: ByClass
    overall: Mapping[str, BootstrapSamples]
    groups: Mapping[str, Mapping[str, BootstrapSamples]]


def bootstrap_metrics(
    challenge: Challenge,
    labels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray,
    n_draws: int,
    seed: int = 0,
) -> BootstrapMetrics:
    """Compute metrics with bootstrap samples for labels (n_rows, n_classes) of 1, 0 or NaN, and scores.

    `scores` has the same shape; single-label tasks need probabilities. `clusters` (n_rows,) are resampled as
    a whole. Classes that lack positives or negatives do not count in means.
    """
    both = has_both_values(labels)
    drawn = bootstrap(labels, scores, clusters, n_draws, seed)
    if challenge.task == "single_label":
        decided = classification_bootstrap(labels, scores, clusters, n_draws, seed)
        drawn = Bootstrap({**decided.by_class, **drawn.by_class}, decided.overall)

    def means(chosen: np.ndarray) -> dict[str, BootstrapSamples]:
        return {metric: drawn.mean(metric, chosen) for metric in class_means(challenge.task)}

    groups = {
        group: means(both & np.isin(challenge.classes, names)) for group, names in challenge.groups.items()
    }
    return BootstrapMetrics(drawn.by_class, {**drawn.overall, **means(both)}, groups)


def macro_values(task: Task, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the task's macro metrics, by name, of labels and scores of shape (n_rows, n_classes)."""
    return macro_metrics(metric_names(task), labels, scores)


def _macro_score(chosen: np.ndarray, draws: Mapping[str, BootstrapSamples]) -> MacroScore:
    return MacroScore(int(chosen.sum()), {metric: drawn.interval() for metric, drawn in draws.items()})


def _group_scores(challenge: Challenge, both: np.ndarray, figures: BootstrapMetrics) -> dict[str, MacroScore]:
    return {
        group: _macro_score(both & np.isin(challenge.classes, challenge.groups[group]), draws)
        for group, draws in figures.groups.items()
    }


def _class_scores(challenge: Challenge, labels: np.ndarray, by_class: ByClass) -> tuple[ClassScore, ...]:
    group_of = {name: group for group, names in challenge.groups.items() for name in names}
    return tuple(
        ClassScore(
            name,
            group_of[name],
            int((~np.isnan(labels[:, c])).sum()),
            int((labels[:, c] == 1).sum()),
            {
                metric: basic_interval(float(values[c]), draws[:, c])
                for metric, (values, draws) in by_class.items()
            },
        )
        for c, name in enumerate(challenge.classes)
    )


N_DRAWS = 1000
"""Bootstrap samples of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model, ensemble or file on one split.

    `overall` and `groups` are means over the classes that have positives and negatives; `undefined` names the
    other classes. `metric` is the challenge's metric. Out-of-fold scores also have `per_fold` (the macro
    metrics within each fold), `mean_over_folds` (the mean of `metric` over these) and, for a multi-label
    model, `raw_pooled` (`metric` of the pooled logits without standardisation). `study_mean` says whether,
    how and why scores are averaged over studies. `draws` are the bootstrap samples by metric, needed for
    paired differences; they are not written to JSON.
    """

    challenge: str
    task: Task
    metric: str
    name: str
    split: str
    n_rows: int
    n_patients: int | None
    overall: MacroScore
    groups: dict[str, MacroScore]
    classes: tuple[ClassScore, ...]
    undefined: tuple[str, ...]
    draws: Mapping[str, BootstrapSamples] = field(repr=False)
    per_fold: tuple[Mapping[str, float], ...] = ()
    mean_over_folds: float | None = None
    raw_pooled: float | None = None
    study_mean: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return a JSON-serialisable dict; undefined numbers are None."""
        values = {key: value for key, value in vars(self).items() if key != "draws"}
        values["classes"] = [
            vars(score) | {"prevalence": score.prevalence, "lift": score.lift} for score in self.classes
        ]
        return _to_json_value(values)


class EvaluationExtras(TypedDict, total=False):
    """The optional fields of `Evaluation`."""

    per_fold: tuple[Mapping[str, float], ...]
    mean_over_folds: float | None
    raw_pooled: float | None
    study_mean: str | None
    notes: tuple[str, ...]


def score_rows(
    challenge: Challenge,
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    patients: pd.Series | None,
    *,
    name: str,
    split: str,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    **extra: Unpack[EvaluationExtras],
) -> Evaluation:
    """Score every row of `scores` (index image_id, one column per class) against `truth` (1, 0, NaN), by id.

    Single-label tasks need probabilities; else any scores that rank the rows of a class are enough.
    The bootstrap resamples `patients` (by id), or rows if it is None or has a missing value. `extra` are
    further fields of the evaluation. Raises UserError if no class has positives and negatives.
    """
    classes = list(challenge.classes)
    labels = truth.loc[scores.index, classes].to_numpy(np.float64)
    patient = None if patients is None else patients.loc[scores.index]
    by_patient = patient is not None and not patient.isna().any()
    clusters = patient.to_numpy(str) if patient is not None and by_patient else np.arange(len(scores))
    both = has_both_values(labels)
    if not both.any():
        raise UserError(f"{challenge.name} {split}: no class has both positive and negative rows.")
    figures = bootstrap_metrics(
        challenge, labels, scores[classes].to_numpy(np.float64), clusters, n_draws, seed
    )
    return Evaluation(
        challenge=challenge.name,
        task=challenge.task,
        metric=challenge.metric,
        name=name,
        split=split,
        n_rows=len(scores),
        n_patients=len(np.unique(clusters)) if by_patient else None,
        overall=_macro_score(both, figures.overall),
        groups=_group_scores(challenge, both, figures),
        classes=_class_scores(challenge, labels, figures.by_class),
        undefined=tuple(np.array(classes)[~both].tolist()),
        draws=figures.overall,
        **extra,
    )


def score_frame(
    challenge: Challenge,
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    patients: pd.Series | None = None,
    *,
    name: str = "file",
    split: str = "truth",
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Evaluation:
    """Score probabilities from any source against `truth`, by id and class name.

    Both have the index image_id and one column per class; rows of `scores` that `truth` lacks do not count.
    Raises UserError for an id of `truth` without a row in `scores`, a missing class, or a blank probability.
    """
    for frame, what in ((scores, "the scored file"), (truth, "the truth")):
        missing = [name for name in challenge.classes if name not in frame.columns]
        if missing:
            raise UserError(f"{what} lacks classes of {challenge.name}: {listing(missing)}.")
    absent = truth.index.difference(scores.index, sort=False)
    if len(absent):
        hint = other_spellings(absent, scores.index)
        raise UserError(f"the scored file lacks rows of the truth: {listing(absent)}.{hint}")
    rows = scores.loc[truth.index, list(challenge.classes)]
    blank = rows.index[rows.isna().any(axis=1)]
    if len(blank):
        raise UserError(f"the scored file has rows without a probability: {listing(blank)}.")
    notes = tuple(challenge.score_notes(truth, lambda: rows))
    return score_rows(
        challenge, rows, truth, patients, name=name, split=split, n_draws=n_draws, seed=seed, notes=notes
    )


def _to_json_value(value: Any) -> Any:
    """Convert to what JSON can hold: dataclasses become dicts, NaN becomes None."""
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _to_json_value(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_json_value(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
