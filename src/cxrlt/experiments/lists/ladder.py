"""`cxrlt compare ladder`: from a plain training to the recipe, one change a row.

The first row has the recipe's network, images, epochs, learning rate and prediction, and for all else what a
short script usually has. Every further row takes one part from the recipe, in addition to those of the rows
before; the last row is the recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

from cxrlt.challenges.base import Task
from cxrlt.errors import UserError
from cxrlt.experiments.differences import RunScore, TruthResult, compare_to_reference
from cxrlt.experiments.experiment import Experiment, ExperimentFigures, Run
from cxrlt.experiments.figures import plot_differences
from cxrlt.experiments.report import format_interval
from cxrlt.experiments.variants import PRESET_FIELDS, ExperimentVariant, Fields
from cxrlt.recipe import Recipe, differing_fields, override_recipe
from cxrlt.reports.page import PageTable

PLAIN = "plain"
"""Name of the first row."""
PLAIN_LOSS: Mapping[Task, str] = MappingProxyType({"multi_label": "bce", "single_label": "ce"})


@dataclass(frozen=True)
class Step:
    """A part of a recipe: its name, what it is, and its fields in the plain training."""

    name: str
    description: str
    plain: Fields


def steps(task: Task) -> tuple[Step, ...]:
    """Return the parts of a recipe in the order of the rows."""
    return (
        Step(
            "head",
            "head, pooling and dropout, instead of a linear head",
            {"model": {"head": {"name": "linear"}, "pool": "backbone", "drop_rate": 0.0, "drop_path": 0.0}},
        ),
        Step("augment", "augmentation, instead of medium", {"data": {"augment": {"policy": "medium"}}}),
        Step(
            "sampling",
            "sampling and mixing of images",
            {"data": {"sampling": {"kind": "uniform"}, "mix": {"kinds": ()}}},
        ),
        Step(
            "schedule",
            "schedule, instead of a warm-up of 10 % and a cosine to 0",
            {"schedule": {"kind": "cosine", "warmup_share": 0.1, "min_lr_share": 0.0, "stages": ()}},
        ),
        Step(
            "decay",
            "optimiser and weight decay, instead of AdamW with 0.01",
            {"optim": {"optimizer": "adamw", "weight_decay": 0.01}},
        ),
        Step(
            "layers",
            "lower learning rates in the backbone",
            {"optim": {"layer_decay": None, "backbone_lr_share": 1.0}},
        ),
        Step("bias", "initial bias of the classifier, instead of 0", {"loss": {"bias_init": "zero"}}),
        Step("clip", "clipping of gradients", {"optim": {"clip_grad": None}}),
        Step("ema", "moving average of the weights", {"optim": {"ema_share": 0.0}}),
        Step(
            "soup",
            "weights of several epochs, or of a chosen one",
            {"soup": {"kind": "none"}, "predict": {"weights": "last"}},
        ),
        Step("loss", f"loss, instead of {PLAIN_LOSS[task]}", {"loss": {"name": PLAIN_LOSS[task]}}),
    )


class LadderExperiment(Experiment):
    """The ladder to one recipe. Raises UserError if the recipe is the plain training itself."""

    kind = "ladder"
    key_column = heading = "row"
    difference_last = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.variants) < 2:
            raise UserError(f"{self.recipe_name} is as plain as the first row: choose another --recipe.")

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """The plain training, then a row for every part that the recipe changes."""
        parts = steps(self.challenge.task)
        rows = [ExperimentVariant(PLAIN, "as a short script", recipe=_without(parts))]
        before = rows[0].recipe(self.base)
        for n, step in enumerate(parts, start=1):
            recipe = _without(parts[n:])
            if changes := _changes(before, after := recipe(self.base)):
                rows.append(ExperimentVariant(step.name, f"{step.description}: {changes}", recipe=recipe))
            before = after
        return tuple(rows)

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the paragraph about recipe, folds and seeds."""
        (summary,) = super().describe_design(runs)
        return [
            f"{summary} Every row has the change of its name and those of the rows before it, and the "
            "recipe's learning rate and prediction."
        ]

    def extra_tables(self, result: TruthResult) -> list[PageTable]:
        """Return the table of the differences between neighbouring rows."""
        scores: dict[str, list[RunScore]] = {row.name: [] for row in result.variant_results}
        for run in self.runs({}):
            if run.name in result.scores:
                scores[run.variant.name].append(result.scores[run.name])
        cells = []
        for before, name in pairwise(scores):
            rows = compare_to_reference({before: scores[before]} | scores)  # the first is the reference
            row = next(row for row in rows if row.name == name)
            differences = [format_interval(d.value, d.low, d.high) for d in row.differences.values()]
            cells.append([name, before, *differences[:1], row.verdict, *differences[1:]])
        headings = ["row", "minus the row", *result.metrics[:1], "verdict", *result.metrics[1:]]
        return [PageTable("Each row minus the row before [95 %].", headings, cells)]

    def make_figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Plot the differences to the plain training."""
        caption = "Difference to the plain training. The intervals do not include the noise of seeds."
        figures = {r.truth.name: plot_differences(self, r, caption, by_verdict=True) for r in results}
        return ExperimentFigures(figures)


def _without(parts: Sequence[Step]) -> Callable[[Recipe], Recipe]:
    """Return a function that makes these parts of a recipe plain."""

    def plain(recipe: Recipe) -> Recipe:
        for part in parts:
            recipe = override_recipe(recipe, dict(part.plain))
        return recipe

    return plain


def _changes(before: Recipe, after: Recipe) -> str:
    changed = [line for line in differing_fields(before, after) if not line.startswith(PRESET_FIELDS)]
    return ", ".join(changed)


EXPERIMENT = LadderExperiment
