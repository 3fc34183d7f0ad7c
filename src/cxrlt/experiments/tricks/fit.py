"""Which tricks a challenge and a recipe can have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.experiments.tricks.registry import Need, Trick
from cxrlt.predictions.predict import flips
from cxrlt.predictions.study_mean import disputed_rows, has_studies
from cxrlt.recipe import Recipe, changed, differing_fields

NO_DIFFERENCE = ("data.augment.policy",)
"""Fields that are only the names of others."""


@dataclass(frozen=True)
class Facts:
    """What a trick may need to know; `all_folds` says whether every fold is trained."""

    challenge: Challenge
    table: pd.DataFrame
    base: Recipe
    all_folds: bool = True


def misfit(trick: Trick, facts: Facts) -> str | None:
    """Why `trick` cannot be compared here; None if it can."""
    for need in trick.needs:
        if reason := NEEDS[need](facts):
            return reason
    try:
        recipe = changed(facts.base, trick.fields(facts.base))
    except UserError as error:
        return str(error).removeprefix("the recipe: ").rstrip(".")
    differing = [f for f in differing_fields(facts.base, recipe) if not f.startswith(NO_DIFFERENCE)]
    is_recipe = trick.stage != "ensemble" and trick.probabilities == "raw"
    return "it changes nothing in this recipe" if is_recipe and not differing else None


def _studies(facts: Facts) -> str | None:
    if not has_studies(facts.table):
        return "no study has two images"
    if n := int(disputed_rows(facts.table, facts.challenge.classes).sum()):
        return f"{n:,} images differ in labels from others of their study, so truth is of images"
    return None


def _views(facts: Facts) -> str | None:
    return "all images have the same view" if facts.table["view"].nunique() < 2 else None


def _no_finding(facts: Facts) -> str | None:
    return None if facts.challenge.no_finding else "there is no class for images without a finding"


def _multi_label(facts: Facts) -> str | None:
    return None if facts.challenge.task == "multi_label" else "an image has exactly one class"


def _mirrored(facts: Facts) -> str | None:
    mirrored = changed(facts.base, {"predict": {"tta": {"flip": True}}})
    try:
        return None if flips(mirrored, facts.challenge.classes) else "training does not mirror images"
    except UserError:
        return "classes have a side, which a mirror image exchanges"


def _all_folds(facts: Facts) -> str | None:
    return None if facts.all_folds else "it is fitted on other folds: leave --folds out"


NEEDS: Mapping[Need, Callable[[Facts], str | None]] = {
    "studies": _studies,
    "views": _views,
    "no finding": _no_finding,
    "multi-label": _multi_label,
    "mirrored training": _mirrored,
    "all folds": _all_folds,
}
