"""What an experiment compares: variants of one recipe, at which settings, and where they apply."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from cxrlt.calibration import Variant as Probabilities
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.weights import Kind as EnsembleKind
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, override_recipe, differing_fields

VariantKind = Literal["trained", "second stage", "prediction", "ensemble"]
Fields = Mapping[str, Any]
ONLY_NAMES = ("data.augment.policy",)
"""Fields that only name the values of others."""


@dataclass(frozen=True)
class Context:
    """What a variant may need to know; `all_folds` says whether every fold is trained."""

    challenge: Challenge
    table: pd.DataFrame
    base: Recipe
    all_folds: bool = True


Need = Callable[[Context], str | None]
"""Why a variant cannot be compared in that context; None if it can."""


def _same(base: Recipe) -> Recipe:
    return base


@dataclass(frozen=True)
class ExperimentVariant:
    """One row of the comparison; `recipe` makes its recipe from the experiment's.

    The first variant of an experiment is the reference, which the others are compared with. By kind:
    trained: a training of its own. second stage: one that starts from the reference's folds. prediction: the
    reference's weights with another recipe or other `probabilities`. ensemble: an `ensemble` of this kind of
    everything that was trained with the same seed, or with `alone` stacking with context of the reference.
    `tuned_as` names the learning rate and clipping that it shares with other variants.
    """

    name: str
    about: str = ""
    kind: VariantKind = "trained"
    recipe: Callable[[Recipe], Recipe] = _same
    needs: tuple[Need, ...] = ()
    ensemble: EnsembleKind | None = None
    alone: bool = False
    probabilities: Probabilities = "raw"
    """Which probabilities are scored; all keep the order of the raw ones."""
    tuned_as: str = ""

    @property
    def tuning(self) -> str:
        return self.tuned_as or self.name


@dataclass(frozen=True)
class Trial:
    """A setting and its score, NaN where training broke off (the loss became infinite)."""

    lr: float
    clip_grad: float | None
    score: float


@dataclass(frozen=True)
class Setting:
    """Learning rate and clipping. `edge`: the best rate is the lowest or highest of the `trials`."""

    lr: float
    clip_grad: float | None
    edge: str = ""
    trials: tuple[Trial, ...] = ()

    def __str__(self) -> str:
        return f"lr{self.lr:g}-clip" + ("off" if self.clip_grad is None else f"{self.clip_grad:g}")

    def on(self, recipe: Recipe) -> Recipe:
        optim = recipe.optim.model_copy(update={"lr": self.lr, "clip_grad": self.clip_grad})
        return recipe.model_copy(update={"optim": optim})


def with_fields(fields: Fields) -> Callable[[Recipe], Recipe]:
    """A variant's `recipe` that puts `fields` on top of the experiment's, as a YAML file would."""
    return lambda base: override_recipe(base, dict(fields))


def require_names(flag: str, names: Sequence[str], known: Collection[str], fitting: str) -> None:
    """Raises UserError for a name that is not `known`, with those that are, and for one given twice."""
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"{flag} {', '.join(wrong)}: {fitting} {', '.join(known)}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{flag} names {', '.join(twice)} more than once.")


def why_not_applicable(variant: ExperimentVariant, context: Context) -> str | None:
    """Why a variant of `context.base` cannot be compared with it; None if it can."""
    for need in variant.needs:
        if reason := need(context):
            return reason
    try:
        recipe = variant.recipe(context.base)
    except UserError as error:
        return str(error).removeprefix("the recipe: ").rstrip(".")
    differing = [f for f in differing_fields(context.base, recipe) if not f.startswith(ONLY_NAMES)]
    changes_recipe = variant.kind != "ensemble" and variant.probabilities == "raw"
    return "it changes nothing in this recipe" if changes_recipe and not differing else None
