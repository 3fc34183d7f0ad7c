"""Metrics by name, each registered where it is defined; every list of metrics is read from here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["ranking", "decisions", "probabilities"]
"""What a metric looks at: how the rows of a class are ranked by any scores; which class of a row has the
highest score, where a row has one class; or the probabilities themselves."""
TASKS: dict[Kind, tuple[str, ...]] = {
    "ranking": ("multi_label", "single_label"),
    "decisions": ("single_label",),
    "probabilities": (),
}
"""The tasks whose models may be compared by a metric of each kind."""


@dataclass(frozen=True)
class Metric:
    """A metric and what holds for it.

    `definition` is a `RankingMetric`, a function of `Counts`, or a `ProbabilityMetric`, by the kind.
    """

    name: str
    kind: Kind
    definition: Any
    of_class: str | None = None
    """What it is the mean over classes of; only such a metric exists for head, medium and tail classes."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest value it can have."""
    lower_is_better: bool = False


METRICS: dict[str, Metric] = {}
Definition = TypeVar("Definition")


def metric(name: str, *, kind: Kind, **facts: Any) -> Callable[[Definition], Definition]:
    """Decorator: challenges and tables know the definition as `name`; `facts` are fields of Metric.

    A module of this package that has one needs no mention elsewhere. Raises ValueError for a name twice, and
    for one that models may be compared by but that is better when lower.
    """

    def register(definition: Definition) -> Definition:
        entry = Metric(name, kind, definition, **facts)
        if name in METRICS:
            raise ValueError(f"two metrics are called {name!r}")
        if entry.lower_is_better and TASKS[kind]:
            raise ValueError(f"{name!r}: what models are compared by must be better when higher: negate it")
        METRICS[name] = entry
        return definition

    return register


def metric_names(task: str) -> list[str]:
    """What models of the task may be compared by; decisions before ranking."""
    of_task = [entry for entry in METRICS.values() if task in TASKS[entry.kind]]
    return [entry.name for entry in sorted(of_task, key=lambda entry: entry.kind)]


def class_means(task: str) -> dict[str, str]:
    """Those of `metric_names` that are means over classes, and what of: {"mAP": "AP"}."""
    return {name: of for name in metric_names(task) if (of := METRICS[name].of_class)}
