"""Every figure about labels and scores, for a task's metrics: each class, groups of classes, all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cxrlt.challenges.base import RANKING_METRICS, Challenge, Task
from cxrlt.metrics import (
    CONFUSION_METRICS,
    Drawn,
    Interval,
    basic_interval,
    bootstrap,
    classification_bootstrap,
    has_both_values,
    macro,
    macro_metrics,
)

CLASS_MEANS = {"mAP": "AP", "mAUROC": "AUROC", "macro-F1": "F1"}
"""The metrics that are means over classes, hence defined for groups of them, and what they are means of."""
MACRO_METRICS: Mapping[Task, tuple[str, ...]] = {
    "multi_label": RANKING_METRICS,
    "single_label": (*CONFUSION_METRICS, "mAUROC", "mAP"),
}
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
    """`n_classes` classes together; the metrics beyond CLASS_MEANS need all of them."""

    n_classes: int
    metrics: Mapping[str, Interval]

    def of(self, metric: str) -> Interval:
        """The figure that a challenge's metric names."""
        return self.metrics[metric]


@dataclass(frozen=True)
class Measured:
    """All figures of one set of rows; `draws` are those of `overall`."""

    overall: MacroScore
    groups: dict[str, MacroScore]
    classes: tuple[ClassScore, ...]
    draws: Mapping[str, Drawn]


@dataclass(frozen=True)
class Figures:
    """Values and bootstrap draws of one set of rows: by class, of all classes, of each group's."""

    by_class: ByClass
    overall: Mapping[str, Drawn]
    groups: Mapping[str, Mapping[str, Drawn]]


def measure(
    challenge: Challenge,
    labels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray,
    n_draws: int,
    seed: int,
) -> Measured:
    """As `draw_figures`, with intervals."""
    figures = draw_figures(challenge, labels, scores, clusters, n_draws, seed)
    both = has_both_values(labels)
    groups = {
        group: _macro_score(both & np.isin(challenge.classes, challenge.groups[group]), draws)
        for group, draws in figures.groups.items()
    }
    classes = _class_scores(challenge, labels, figures.by_class)
    return Measured(_macro_score(both, figures.overall), groups, classes, figures.overall)


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
    ranked = bootstrap(labels, scores, clusters, n_draws, seed)
    by_class = {"AP": (ranked.ap, ranked.ap_draws), "AUROC": (ranked.auroc, ranked.auroc_draws)}
    draws = {}
    if challenge.task == "single_label":
        found = classification_bootstrap(labels, scores, clusters, n_draws, seed)
        draws = {name: found.drawn(name) for name in CONFUSION_METRICS}
        by_class |= {
            "F1": (found.f1, found.f1_draws),
            "precision": (found.precision, found.precision_draws),
            "recall": (found.recall, found.recall_draws),
        }
    groups = {
        group: _class_means(by_class, both & np.isin(challenge.classes, names))
        for group, names in challenge.groups.items()
    }
    return Figures(by_class, draws | _class_means(by_class, both), groups)


def macro_values(task: Task, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The task's macro metrics of (n, c) labels and scores."""
    return macro_metrics(MACRO_METRICS[task], labels, scores)


def _class_means(by_class: ByClass, chosen: np.ndarray) -> dict[str, Drawn]:
    return {
        metric: Drawn(float(macro(by_class[name][0][chosen])), macro(by_class[name][1][:, chosen]))
        for metric, name in CLASS_MEANS.items()
        if name in by_class
    }


def _macro_score(chosen: np.ndarray, draws: Mapping[str, Drawn]) -> MacroScore:
    return MacroScore(int(chosen.sum()), {metric: drawn.interval() for metric, drawn in draws.items()})


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
