"""What predictions are worth: the evaluation of a model, an ensemble or a file, by id and by class name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """One class: how often it occurs and how well it is found.

    `metrics` are AP and AUROC, and with one class per row F1, precision and recall; `lift` is AP over
    prevalence.
    """

    name: str
    group: str
    n_known: int
    n_positive: int
    metrics: Mapping[str, Interval]

    @property
    def prevalence(self) -> float:
        return self.n_positive / self.n_known if self.n_known else float("nan")

    @property
    def lift(self) -> float:
        return self.metrics["AP"].value / self.prevalence if self.n_positive else float("nan")


@dataclass(frozen=True)
class MacroScore:
    """`n_classes` classes together; the metrics beyond `class_means` need all of them."""

    n_classes: int
    metrics: Mapping[str, Interval]

    def of(self, metric: str) -> Interval:
        """The figure that a challenge's metric names."""
        return self.metrics[metric]


@dataclass(frozen=True)
class Figures:
    """Values and bootstrap draws of one set of rows: by class, of all classes, of each group's."""

    by_class: ByClass
    overall: Mapping[str, BootstrapSamples]
    groups: Mapping[str, Mapping[str, BootstrapSamples]]


def draw_figures(
    challenge: Challenge,
    labels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray,
    n_draws: int,
    seed: int = 0,
) -> Figures:
    """Figures of (n, c) labels (1, 0, NaN) and scores; `clusters` (n,) are drawn whole by the bootstrap.

    With one class per row scores are probabilities. Classes without both values are left out of means.
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
    return Figures(drawn.by_class, {**drawn.overall, **means(both)}, groups)


def macro_values(task: Task, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The task's macro metrics of (n, c) labels and scores."""
    return macro_metrics(metric_names(task), labels, scores)


def _macro_score(chosen: np.ndarray, draws: Mapping[str, BootstrapSamples]) -> MacroScore:
    return MacroScore(int(chosen.sum()), {metric: drawn.interval() for metric, drawn in draws.items()})


def _group_scores(challenge: Challenge, both: np.ndarray, figures: Figures) -> dict[str, MacroScore]:
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


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model, ensemble or file on one split.

    `overall` and `groups` are means over the classes that have both values; `undefined` names the others.
    `metric` is the challenge's. Out-of-fold scores also have `per_fold` (the macro metrics of each fold
    alone), `mean_over_folds` (the mean of `metric` in it) and, for a multi-label model, `raw_pooled`
    (`metric` of the logits pooled as they are). `study_mean` says whether scores are averaged over studies,
    how and why. `draws`, by the name of the metric, serve paired differences and are no part of the JSON.
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
        """Plain numbers, None where undefined."""
        values = {key: value for key, value in vars(self).items() if key != "draws"}
        values["classes"] = [
            vars(score) | {"prevalence": score.prevalence, "lift": score.lift} for score in self.classes
        ]
        return _plain(values)


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
    **extra: object,
) -> Evaluation:
    """Score every row of `scores` (index image_id, a column per class) against `truth` (1, 0, NaN), by id.

    Scores may be anything that ranks the rows of a class, but with one class per row are probabilities.
    `patients` (by id; None or NA: every row is its own) are drawn whole by the bootstrap. `extra` are further
    fields of the evaluation. Raises UserError if no class has both values.
    """
    classes = list(challenge.classes)
    labels = truth.loc[scores.index, classes].to_numpy(np.float64)
    clusters = None if patients is None else patients.loc[scores.index]
    by_row = clusters is None or clusters.isna().any()
    clusters = np.arange(len(scores)) if by_row else clusters.to_numpy(str)
    both = has_both_values(labels)
    if not both.any():
        raise UserError(
            f"{challenge.name} {split}: no class has both positive and negative rows to score on."
        )
    figures = draw_figures(challenge, labels, scores[classes].to_numpy(np.float64), clusters, n_draws, seed)
    return Evaluation(
        challenge=challenge.name,
        task=challenge.task,
        metric=challenge.metric,
        name=name,
        split=split,
        n_rows=len(scores),
        n_patients=None if by_row else len(np.unique(clusters)),
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
    """Score probabilities of any origin, by id and class name; rows without a truth do not count.

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
    return score_rows(challenge, rows, truth, patients, name=name, split=split, n_draws=n_draws, seed=seed)


def _plain(value: object) -> object:
    """Dataclasses as objects, NaN as None: what JSON can hold."""
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
