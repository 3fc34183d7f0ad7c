"""The registry of metrics: `@metric("name", kind=...)` adds one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["ranking", "decisions", "probabilities"]
"""Input of a metric. ranking: ranks of the rows of a class by any scores. decisions: the class with the
highest score, for one class per row. probabilities: the probabilities themselves."""
TASKS: dict[Kind, tuple[str, ...]] = {
    "ranking": ("multi_label", "single_label"),
    "decisions": ("single_label",),
    "probabilities": (),
}
"""Tasks for which a kind of metric can be used to compare models."""


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    `definition` is, depending on the kind, a `RankingMetric`, a function of `Counts`, or a
    `ProbabilityMetric`.
    """

    name: str
    kind: Kind
    definition: Any
    of_class: str | None = None
    """Name of the metric per class whose mean it is, or None: then it has no head, medium and tail values."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest possible value."""
    lower_is_better: bool = False
    """Whether a lower value is better."""


METRICS: dict[str, Metric] = {}
Definition = TypeVar("Definition")


def metric(name: str, *, kind: Kind, **properties: Any) -> Callable[[Definition], Definition]:
    """Decorator that registers a metric as `name`; the other arguments are fields of Metric.

    A module of this package needs no other registration. Raises ValueError if the name is already registered,
    and if a lower value is better for a kind that compares models.
    """

    def register(definition: Definition) -> Definition:
        entry = Metric(name, kind, definition, **properties)
        if name in METRICS:
            raise ValueError(f"two metrics have the name {name!r}")
        if entry.lower_is_better and TASKS[kind]:
            raise ValueError(f"{name!r}: a metric that compares models must be better when higher: negate it")
        METRICS[name] = entry
        return definition

    return register


def metric_names(task: str) -> list[str]:
    """Return the metrics that can compare models of a task; decisions before ranking."""
    of_task = [entry for entry in METRICS.values() if task in TASKS[entry.kind]]
    return [entry.name for entry in sorted(of_task, key=lambda entry: entry.kind)]


def class_means(task: str) -> dict[str, str]:
    """Return the metrics of a task that are means over classes, with the metric per class: {"mAP": "AP"}."""
    return {name: each for name in metric_names(task) if (each := METRICS[name].of_class)}
