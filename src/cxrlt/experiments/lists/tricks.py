"""`cxrlt compare tricks`: compare one recipe with the same recipe plus one trick, for every trick."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from cxrlt.errors import UserError
from cxrlt.experiments.costs import relative_costs, training_clock
from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.experiment import Experiment, ExperimentFigures, Row, Run
from cxrlt.experiments.figures import plot_differences
from cxrlt.experiments.variants import (
    Context,
    ExperimentVariant,
    Fields,
    OptimSettings,
    Requirement,
    VariantKind,
    require_known_names,
    why_not_applicable,
    with_fields,
)
from cxrlt.predictions.predict import uses_flip
from cxrlt.predictions.study_mean import conflicting_rows, has_studies
from cxrlt.recipe import Recipe, override_recipe
from cxrlt.training.timing import CPU_CLOCK, WALL_CLOCK

SINGLE_IMAGE_PREDICTION: Fields = {
    "predict": {
        "tta": {"flip": False, "scales": (), "crop": None, "merge": "logits"},
        "study_mean": "off",
        "gate": 0.0,
        "weights": "last",
    }
}
"""Fields that switch off TTA, study mean and gate: each image is predicted once and independently."""
BASE = ExperimentVariant("base")
TRICKS: dict[str, ExperimentVariant] = {}


def register_trick(
    name: str,
    description: str,
    changes: Fields | Callable[[Recipe], Recipe] = MappingProxyType({}),
    kind: VariantKind = "trained",
    requirements: Sequence[Requirement] = (),
    **variant_fields: Any,
) -> None:
    """Register a trick for `cxrlt compare tricks`.

    `changes`: recipe fields, or a function from recipe to recipe. `variant_fields`: further fields of
    ExperimentVariant. Raises ValueError if the name is already registered.
    """
    if name in TRICKS or name == BASE.name:
        raise ValueError(f"the trick {name!r} is already registered")
    recipe = changes if callable(changes) else with_fields(changes)
    TRICKS[name] = ExperimentVariant(name, description, kind, recipe, tuple(requirements), **variant_fields)


def needs_studies(context: Context) -> str | None:
    """Require a study with several images, and equal labels within each study."""
    if not has_studies(context.table):
        return "no study has two images"
    if n := int(conflicting_rows(context.table, context.challenge.classes).sum()):
        return f"{n:,} images have other labels than the rest of their study, so labels are per image"
    return None


def needs_views(context: Context) -> str | None:
    """Require images of different views."""
    return "all images have the same view" if context.table["view"].nunique() < 2 else None


def needs_no_finding(context: Context) -> str | None:
    """Require a class for images without findings."""
    return None if context.challenge.no_finding else "there is no class for images without findings"


def needs_multi_label(context: Context) -> str | None:
    """Require a multi-label task."""
    return None if context.challenge.task == "multi_label" else "an image has exactly one class"


def needs_flip_training(context: Context) -> str | None:
    """Require training with flips and classes without a side."""
    flip_recipe = override_recipe(context.base, {"predict": {"tta": {"flip": True}}})
    try:
        return None if uses_flip(flip_recipe, context.challenge.classes) else "training does not flip images"
    except UserError:
        return "classes have a side (left or right), which a flip swaps"


def needs_all_folds(context: Context) -> str | None:
    """Require that every fold is trained."""
    return None if context.all_folds else "it is fitted on the other folds: remove --folds"


def progressive_resize(base: Recipe) -> Recipe:
    """Train half of the epochs at two thirds of the size (a multiple of 32 pixels), the rest at full size.

    Returns the recipe unchanged if it has a single epoch or is too small for a smaller size.
    """
    size, epochs = max(32, 32 * round(base.data.size * 2 / 3 / 32)), base.schedule.epochs // 2
    if size >= base.data.size or not epochs:
        return base
    stage = {"epochs": epochs, "size": size}
    return override_recipe(base, {"schedule": {"epochs": base.schedule.epochs - epochs, "stages": (stage,)}})


def scale_lr(factor: float) -> Callable[[Recipe], Recipe]:
    """Return a function that multiplies a recipe's learning rate."""
    return lambda base: override_recipe(base, {"optim": {"lr": base.optim.lr * factor}})


def double_epochs(base: Recipe) -> Recipe:
    """Double the epochs of a recipe."""
    return override_recipe(base, {"schedule": {"epochs": 2 * base.schedule.epochs}})


def second_stage(model: Fields, data: Fields = MappingProxyType({})) -> Fields:
    """Return the fields of a second stage on cached features of BASE's frozen backbone.

    Cached features are of single images at one size, so mixing and size stages are off.
    """
    return {
        "model": {"frozen": True, **model},
        "data": {"mix": {"kinds": ()}, **data},
        "schedule": {"stages": ()},
    }


register_trick(
    "ml_decoder",
    "ML-Decoder head: a query per class attends to the feature map",
    {"model": {"head": {"name": "ml_decoder"}, "pool": "backbone"}},
)
register_trick(
    "csra",
    "CSRA head: class-specific residual attention",
    {"model": {"head": {"name": "csra"}, "pool": "backbone"}},
)
register_trick("gem", "generalised-mean pooling", {"model": {"head": {"name": "linear"}, "pool": "gem"}})
register_trick("attention", "attention pooling", {"model": {"head": {"name": "linear"}, "pool": "attention"}})
for _name, _description in (
    ("repeat_factor", "oversample images of rare classes"),
    ("class_balanced", "sample all classes equally often"),
):
    register_trick(_name, _description, {"data": {"sampling": {"kind": _name}}})
for _name, _description in (
    ("mosaic", "four images in one, with the findings of all four"),
    ("mixup", "weighted mean of two images"),
    ("cutmix", "replace a rectangle by part of another image"),
):
    register_trick(_name, f"{_description}, half of the time", {"data": {"mix": {"kinds": (_name,)}}})
for _name in ("light", "medium", "strong"):
    register_trick(
        f"augment_{_name}", f"the augmentation policy {_name}", {"data": {"augment": {"policy": _name}}}
    )
for _name, _factor in (("lower_lr", 1 / 3), ("higher_lr", 3.0)):
    register_trick(_name, f"{_factor:.2g} times the learning rate", scale_lr(_factor))
register_trick("longer", "twice the epochs", double_epochs)
register_trick("soup", "greedy soup: average of the last epochs' weights", {"soup": {"kind": "greedy"}})
register_trick(
    "rising", "progressive resizing: half of the epochs at two thirds of the size", progressive_resize
)
register_trick(
    "fusion",
    "a transformer over up to 4 images of a study, on BASE's frozen features",
    second_stage({"head": {"name": "linear"}, "pool": "average", "fusion": {"max_images": 4}}),
    "second stage",
    [needs_studies],
)
register_trick(
    "fusion_decoder",
    "fusion with the head ml_decoder",
    second_stage({"head": {"name": "ml_decoder"}, "pool": "backbone", "fusion": {"max_images": 4}}),
    "second stage",
    [needs_studies],
)
register_trick(
    "crt",
    "a new linear head, class-balanced, on BASE's frozen features (Kang et al., ICLR 2020)",
    second_stage({"head": {"name": "linear"}, "new_head": True}, {"sampling": {"kind": "class_balanced"}}),
    "second stage",
)
for _name, _description, _predict, _requirements in (
    ("flip", "mean with the flipped image", {"tta": {"flip": True}}, [needs_flip_training]),
    ("scales", "mean over scales 0.9, 1 and 1.1", {"tta": {"scales": (0.9, 1.1)}}, []),
    ("crops", "mean with five crops of 0.875", {"tta": {"crop": 0.875}}, []),
    ("study_mean", "mean over the images of a study", {"study_mean": "on"}, [needs_studies]),
    (
        "view_weights",
        "weighted mean over a study, with view weights fitted out of fold",
        {"study_mean": "search"},
        [needs_studies, needs_views, needs_all_folds],
    ),
    (
        "gate",
        "lower the findings by half of the no-finding logit",
        {"gate": 0.5},
        [needs_no_finding, needs_multi_label],
    ),
):
    register_trick(_name, _description, {"predict": _predict}, "prediction", _requirements)
for _name, _description, _probabilities in (
    ("calibrate", "probabilities calibrated out of fold, same ranking", "calibrated"),
    ("thresholds", "calibrated, and shifted so that .5 is each class's best F1 threshold", "f1"),
):
    register_trick(
        _name,
        _description,
        {},
        "prediction",
        [needs_multi_label, needs_all_folds],
        probabilities=_probabilities,
    )
for _name, _description, _requirements in (
    ("mean", "mean of BASE and all trained variants", []),
    ("greedy", "greedy selection from these models", []),
    ("per_class", "weights per class over these models", [needs_multi_label]),
    ("stack", "stacking: regularised linear model per class", [needs_multi_label]),
):
    register_trick(_name, _description, {}, "ensemble", [*_requirements, needs_all_folds], ensemble=_name)
register_trick(
    "context",
    "stacking of BASE with context features: view, study and patient",
    {},
    "ensemble",
    [needs_multi_label, needs_all_folds],
    ensemble="stack",
    only_reference=True,
)


class TrickExperiment(Experiment):
    """Comparison of tricks. Raises UserError for tricks that are unknown or not applicable."""

    kind = "tricks"
    key_column = heading = "trick"
    scores_probabilities = True
    extra_columns = (
        ("training time", lambda row: _format_multiple(row["training_time"])),
        ("passes", lambda row: _format_multiple(row["passes"])),
    )
    legend = (
        "Second stages, predictions and ensembles use BASE's models. For them, 2 s² is the variance between "
        "seeds of the difference to BASE with the same seed, averaged over all tricks of a kind.",
        "mF1@.5 and local ECE (15 bins, per class) depend on the probabilities, all other metrics only on "
        "the ranking.",
        "Passes: forward passes per image, summed over the members of an ensemble.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_possible(self.plan.tricks or ())

    def _require_possible(self, named: Sequence[str]) -> None:
        require_known_names("--tricks", named, TRICKS, "the tricks are")
        not_applicable = "; ".join(
            f"{name} ({why})" for name, why in self._not_applicable.items() if name in named
        )
        if not_applicable:
            raise UserError(
                f"--tricks: not applicable to {self.challenge.name} with this recipe: {not_applicable}."
            )
        ensembles = [v.name for v in self.variants if v.kind == "ensemble" and not v.only_reference]
        if ensembles and not any(v.kind in ("trained", "second stage") for v in self.variants[1:]):
            raise UserError(
                f"--tricks {', '.join(ensembles)}: there is nothing to ensemble with BASE. Add a trick "
                "that is trained."
            )

    @cached_property
    def base(self) -> Recipe:
        """The base recipe without TTA, study mean and gate."""
        return override_recipe(super().base, dict(SINGLE_IMAGE_PREDICTION))

    @cached_property
    def _not_applicable(self) -> Mapping[str, str]:
        """Tricks that are not applicable -> the reason."""
        all_folds = set(self.folds) == set(range(self.fold_assignment.n_folds))
        context = Context(self.challenge, self.scored_data.rows.table, self.base, all_folds)
        reasons = {name: why_not_applicable(variant, context) for name, variant in TRICKS.items()}
        return {name: why for name, why in reasons.items() if why}

    @property
    def excluded(self) -> Mapping[str, str]:
        """Tricks that are not applicable -> the reason, if --tricks is not given."""
        return {} if self.plan.tricks else self._not_applicable

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """BASE, then the tricks in the order of registration."""
        chosen = [name for name in TRICKS if name not in self._not_applicable]
        if self.plan.tricks is not None:
            chosen = [name for name in TRICKS if name in self.plan.tricks]
        return (BASE, *(TRICKS[name] for name in chosen))

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the paragraphs about base recipe, folds, seeds and training time."""
        recipe, clock = self.base, training_clock(self, runs)
        clock_name = "CPU" if clock == CPU_CLOCK else "wall-clock"
        parallel_note = f"; approximate, as up to {self.n_workers} trainings ran in parallel"
        return [
            f"BASE is {self.recipe_name}: {recipe.model.backbone}, {recipe.data.size} px, "
            f"{recipe.schedule.epochs} epochs, each image predicted once and independently. "
            f"Folds {', '.join(map(str, self.folds))} of {self.fold_assignment.n_folds}; "
            f"seeds: {self.plan.seeds}. "
            "Each trick is added alone and without tuning: every run has BASE's learning rate.",
            f"Training time: {clock_name} seconds relative to BASE with the same fold and seed, median over "
            "folds and seeds. It includes trainings that a trick needs first: BASE for a second stage, all "
            f"members for an ensemble{parallel_note if clock == WALL_CLOCK else ''}.",
        ]

    def variant_columns(self, run: Run) -> Row:
        """Return the description and the kind of the trick."""
        return {"what": run.variant.description, "stage": "" if self.is_reference(run) else run.variant.kind}

    def measured_columns(
        self, runs: Sequence[Run], settings: Mapping[str, OptimSettings]
    ) -> Mapping[str, Row]:
        """Return training time and passes relative to BASE."""
        return relative_costs(self, runs)

    def make_figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Plot the differences to BASE, coloured by verdict."""
        caption = (
            "Difference to BASE. Colours show the verdict: green higher, red lower, grey within noise. The "
            "verdict includes the noise of seeds, the intervals do not."
        )
        return ExperimentFigures(
            {r.truth.name: plot_differences(self, r, caption, by_verdict=True) for r in results}
        )


def _format_multiple(value: float) -> str:
    return "–" if value != value else f"{value:.3g} ×"


EXPERIMENT = TrickExperiment
