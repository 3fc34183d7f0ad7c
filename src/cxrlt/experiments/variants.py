"""Variants of a recipe that an experiment compares, their tuned settings, and their requirements."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from cxrlt.calibration import Variant as Probabilities
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.weights import Kind as EnsembleKind
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, differing_fields, override_recipe

VariantKind = Literal["trained", "second stage", "prediction", "ensemble"]
Fields = Mapping[str, Any]
PRESET_FIELDS = ("data.augment.policy",)
"""Fields that are only the name of a preset. Other fields hold its values."""


@dataclass(frozen=True)
class Context:
    """What a requirement can check. `all_folds`: whether every fold is trained."""

    challenge: Challenge
    table: pd.DataFrame
    base: Recipe
    all_folds: bool = True


Requirement = Callable[[Context], str | None]
"""Returns the reason why a variant is not applicable in a context, or None."""


def _identity(base: Recipe) -> Recipe:
    return base


@dataclass(frozen=True)
class ExperimentVariant:
    """One row of the comparison. `recipe` returns the variant's recipe, given the experiment's.

    The first variant of an experiment is the reference. Kinds of variants:
    - trained: trained from the start of the recipe.
    - second stage: trained from the reference's weights of the same fold and seed.
    - prediction: the reference's weights, predicted with another recipe or with other `probabilities`.
    - ensemble: an `ensemble` of all models with the same seed; with `only_reference`, stacking with context
      of the reference's models only.
    Variants with the same `tuned_as` share their learning rate and clipping.
    """

    name: str
    description: str = ""
    kind: VariantKind = "trained"
    recipe: Callable[[Recipe], Recipe] = _identity
    requirements: tuple[Requirement, ...] = ()
    ensemble: EnsembleKind | None = None
    only_reference: bool = False
    probabilities: Probabilities = "raw"
    """Which probabilities to score. All keep the ranking of the raw ones."""
    tuned_as: str = ""

    @property
    def tuning_name(self) -> str:
        """Name of the tuned setting, which variants can share."""
        return self.tuned_as or self.name


@dataclass(frozen=True)
class Trial:
    """A setting and its score; NaN if the training stopped (infinite loss)."""

    lr: float
    clip_grad: float | None
    score: float


@dataclass(frozen=True)
class OptimSettings:
    """Learning rate and gradient clipping. `edge`: "lowest" or "highest" if `lr` is an end of the range."""

    lr: float
    clip_grad: float | None
    edge: str = ""
    trials: tuple[Trial, ...] = ()

    def __str__(self) -> str:
        return f"lr{self.lr:g}-clip" + ("off" if self.clip_grad is None else f"{self.clip_grad:g}")

    def to_row(self) -> dict[str, Any]:
        """Return the columns of results.csv."""
        return {"lr": self.lr, "lr_edge": self.edge, "clip_grad": self.clip_grad}

    def apply_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this learning rate and clipping."""
        optim = recipe.optim.model_copy(update={"lr": self.lr, "clip_grad": self.clip_grad})
        return recipe.model_copy(update={"optim": optim})


def with_fields(fields: Fields) -> Callable[[Recipe], Recipe]:
    """Return a function that overrides `fields` of the experiment's recipe, as a YAML file does."""
    return lambda base: override_recipe(base, dict(fields))


def require_known_names(flag: str, names: Sequence[str], known: Collection[str], known_label: str) -> None:
    """Raise UserError for a name that is not in `known`, and for a duplicate."""
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"{flag} {', '.join(wrong)}: {known_label} {', '.join(known)}.")
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{flag} has duplicates: {', '.join(duplicates)}.")


def why_not_applicable(variant: ExperimentVariant, context: Context) -> str | None:
    """Return why the variant is not applicable to `context.base`; None if it is."""
    for requirement in variant.requirements:
        if reason := requirement(context):
            return reason
    try:
        recipe = variant.recipe(context.base)
    except UserError as error:
        return str(error).removeprefix("the recipe: ").rstrip(".")
    differing = [f for f in differing_fields(context.base, recipe) if not f.startswith(PRESET_FIELDS)]
    changes_recipe = variant.kind != "ensemble" and variant.probabilities == "raw"
    return "it changes nothing in this recipe" if changes_recipe and not differing else None
