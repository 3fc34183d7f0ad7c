"""Recipes from names, YAML files and what is put on top of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cxrlt.artifacts import expand_home
from cxrlt.errors import UserError, quoted, shortened
from cxrlt.recipe.fields import POLICIES, Changes, Recipe
from cxrlt.spelling import did_you_mean
from cxrlt.system.atomic_files import write_text
from cxrlt.system.user_files import read_yaml

MOST_FAULTS = 10
MOVED = {
    "model.csra_lambda": "model.head.weight",
    "model.decoder_dim": "model.head.dim",
    "model.decoder_heads": "model.head.n_heads",
}
RECIPES_DIR = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(recipe: str | None, config: Path | None = None) -> Recipe:
    """The recipe called `recipe`, or in the YAML file of that name, with the fields of `config` on top.

    A YAML file may name a `base` recipe. Raises UserError for an unknown recipe, key or value.
    """
    values = _values(recipe) if recipe else {}
    if config is not None:
        over = _read_yaml(config)
        base = _base(over, config)
        values = _merge(values if recipe or not base else _values(base), over)
    return _validated(values, str(config or recipe))


def override_recipe(recipe: Recipe, over: dict[str, Any]) -> Recipe:
    """`recipe` with the fields `over` on top, as a YAML file would put them. Raises UserError as there."""
    return _validated(_merge(recipe.model_dump(), over), "the recipe")


def run_name(recipe: str | None) -> str:
    """What a run of this recipe is called unless it is given a name."""
    if recipe is None:
        raise UserError("Without a recipe's name the run needs one: give it --name.")
    return Path(recipe).stem if _is_file(recipe) else recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML that `load_recipe(None, path)` reads back."""
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def differing_fields(old: Recipe, new: Recipe) -> list[str]:
    """'optim.lr: 0.001 -> 0.0001' for every field in which the two differ."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def fields_affecting(recipe: Recipe, *what: Changes) -> dict[str, Any]:
    """Flat name -> value of the fields that change one of `what` and are not at their default.

    A field that the project gets later, at its default, is therefore no difference.
    """
    effect_of, usual = _effects(Recipe), _flat(Recipe().model_dump(mode="json"))
    values = _flat(recipe.model_dump(mode="json"))
    return {
        name: value for name, value in values.items() if value != usual.get(name) and effect_of(name) in what
    }


def differing_fields_affecting(old: Recipe, new: Recipe, *what: Changes) -> list[str]:
    """As `differing_fields`, of the fields that change one of `what`."""
    effect_of = _effects(Recipe)
    return [line for line in differing_fields(old, new) if effect_of(line.partition(":")[0]) in what]


def _effects(kind: type[BaseModel]) -> Callable[[str], Changes]:
    """What each flat name of a field changes, as the field says, or the section that it stands in."""
    said = _said_by_fields(kind)

    def effect_of(name: str) -> Changes:
        above = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
        return next((said[each] for each in above if each in said), "weights")

    return effect_of


def _said_by_fields(kind: type[BaseModel], prefix: str = "") -> dict[str, Changes]:
    said: dict[str, Changes] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            said[prefix + name] = field.json_schema_extra["changes"]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            said |= _said_by_fields(field.annotation, f"{prefix}{name}.")
    return said


def _values(recipe: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of a recipe and of its bases, unresolved; `above` are the recipes that it is a base of."""
    if recipe in above:
        raise UserError(f"Recipes that are each other's base: {' -> '.join((*above, recipe))}.")
    if not _is_file(recipe) and recipe not in recipe_names():
        hint = did_you_mean(recipe, recipe_names())
        known = ", ".join(recipe_names())
        raise UserError(f"Recipe {quoted(recipe)} is not known{hint}. Known recipes: {known}.")
    path = Path(recipe) if _is_file(recipe) else RECIPES_DIR / f"{recipe}.yaml"
    values = _read_yaml(path)
    base = _base(values, path)
    return _merge(_values(base, (*above, recipe)), values) if base else values


def _base(values: dict[str, Any], path: Path) -> str | None:
    """Takes `base` out of the values of a file."""
    base = values.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"{path}: base: {quoted(base)} is not the name of a recipe or of a YAML file.")
    return base


def _is_file(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml"))


def _read_yaml(path: Path) -> dict[str, Any]:
    example = "fields such as `optim: {lr: 0.0001}`"
    return read_yaml(expand_home(path), "Give --config the path of a YAML file.", example)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section.

    A loss or head with another name brings its own options, an augmentation policy its own values for all
    but flip.
    """
    renamed = "name" in over and over["name"] != base.get("name")
    kept = {"flip"} if over.get("policy") in [*POLICIES] else {"bias_init"} if renamed else base
    merged = {key: value for key, value in base.items() if key in kept}
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _validated(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(_numbers(values))
    except ValidationError as error:
        faults = "; ".join(_sentence(fault) for fault in error.errors()[:MOST_FAULTS])
        raise UserError(f"{source}: {faults}") from error


def _numbers(value: Any) -> Any:
    """YAML reads 1e-4 as text; where text is a number, it is meant as one."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sentence(error: Any) -> str:
    where = shortened(".".join(str(part) for part in error["loc"]))
    if error["type"] == "value_error":  # fields that do not go together
        return error["msg"].removeprefix("Value error, ")
    if error["type"] != "extra_forbidden":
        return f"{where or 'recipe'}: {error['msg']} (got {quoted(error['input'])})"
    if where in MOVED:
        return f"{where} is {MOVED[where]} now, beside model.head.name"
    known = list(_flat(Recipe().model_dump(mode="json")))
    return f"there is no field {where}{did_you_mean(where, [*known, *Recipe.model_fields])}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
