"""Load recipes from names, YAML files and overrides, and compare them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from cxrlt.artifacts import expand_home
from cxrlt.errors import UserError, quoted, shortened
from cxrlt.recipe.fields import POLICIES, Effect, Recipe
from cxrlt.recipe.known_weights import PRESET_FIELDS, read_known_weights
from cxrlt.spelling import did_you_mean
from cxrlt.system.atomic_files import write_text
from cxrlt.system.user_files import read_yaml

MAX_LISTED_ERRORS = 10
"""Number of errors in one message."""
RENAMED_FIELDS = {
    "model.start_from": "model.init_from",
    "soup.inner_share": "data.holdout_share",
    "soup.holdout_share": "data.holdout_share",
    "loss.bias_start": "loss.bias_init",
    "model.csra_lambda": "model.head.weight",
    "model.decoder_dim": "model.head.dim",
    "model.decoder_heads": "model.head.n_heads",
}
"""Old name of a field -> its name now. The old name is an error that gives the new one."""
RECIPES_DIR = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes in `recipes/`, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(recipe: str | None, config: Path | None = None) -> Recipe:
    """Load a recipe by its name or from its YAML file; fields of the YAML file `config` override it.

    A YAML file may name a `base` recipe. Raises UserError for an unknown recipe, field or value.
    """
    values = _values(recipe) if recipe else {}
    if config is not None:
        over = _read_yaml(config)
        base = _pop_base(over, config)
        values = _merge(values if recipe or not base else _values(base), over)
    return _validated(values, str(config or recipe))


def override_recipe(recipe: Recipe, fields: dict[str, Any]) -> Recipe:
    """Return `recipe` with `fields` overridden, as by a YAML file. Raises UserError as `load_recipe`."""
    return _validated(_merge(recipe.model_dump(), fields), "the recipe")


def run_name(recipe: str | None) -> str:
    """Return the default name of a run: that of its recipe. Raises UserError without a recipe."""
    if recipe is None:
        raise UserError("A run without a recipe needs a name: add --name.")
    return Path(recipe).stem if _is_file(recipe) else recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML, which `load_recipe(None, path)` reads."""
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def differing_fields(old: Recipe, new: Recipe) -> list[str]:
    """Return 'optim.lr: 0.001 -> 0.0001' for every field that differs."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def fields_affecting(recipe: Recipe, *effects: Effect) -> dict[str, Any]:
    """Return dotted name -> value of the fields with one of these effects that are not at their default.

    A field that a later version adds, at its default, is therefore not a difference.
    """
    effect_of, default = _effects(Recipe), _flatten(Recipe().model_dump(mode="json"))
    values = _flatten(recipe.model_dump(mode="json"))
    return {
        name: value
        for name, value in values.items()
        if value != default.get(name) and effect_of(name) in effects
    }


def differing_fields_affecting(old: Recipe, new: Recipe, *effects: Effect) -> list[str]:
    """Like `differing_fields`, for the fields with one of these effects only."""
    effect_of = _effects(Recipe)
    return [line for line in differing_fields(old, new) if effect_of(line.partition(":")[0]) in effects]


def _effects(kind: type[BaseModel]) -> Callable[[str], Effect]:
    """Return a function: dotted name of a field -> its effect, declared by the field or its section."""
    declared = _declared_effects(kind)

    def effect_of(name: str) -> Effect:
        above = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
        return next((declared[each] for each in above if each in declared), "weights")

    return effect_of


def _declared_effects(kind: type[BaseModel], prefix: str = "") -> dict[str, Effect]:
    declared: dict[str, Effect] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            declared[prefix + name] = cast(Effect, field.json_schema_extra["affects"])
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            declared |= _declared_effects(field.annotation, f"{prefix}{name}.")
    return declared


def _values(recipe: str, derived: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a recipe merged with its bases; `derived` are the recipes that it is a base of."""
    if recipe in derived:
        raise UserError(f"Recipes are each other's base: {' -> '.join((*derived, recipe))}.")
    if not _is_file(recipe) and recipe not in recipe_names():
        hint = did_you_mean(recipe, recipe_names())
        known = ", ".join(recipe_names())
        raise UserError(f"Unknown recipe {quoted(recipe)}{hint}. Known recipes: {known}.")
    path = Path(recipe) if _is_file(recipe) else RECIPES_DIR / f"{recipe}.yaml"
    values = _read_yaml(path)
    base = _pop_base(values, path)
    return _merge(_values(base, (*derived, recipe)), values) if base else values


def _pop_base(values: dict[str, Any], path: Path) -> str | None:
    """Remove `base` from the values of a file and return it. Raises UserError if it is not text."""
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
    """Return `base` overridden by `over`, section by section.

    A loss or head with another name does not keep the options in `base`. An augmentation policy replaces all
    fields except flip, and a row of weights.yaml those that it sets.
    """
    merged = {key: value for key, value in base.items() if key in _kept(base, over)}
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _kept(base: dict[str, Any], over: dict[str, Any]) -> set[str]:
    """Return the fields of a section in `base` that `over` does not reset."""
    if over.get("policy") in [*POLICIES]:
        return {"flip"}
    if "name" in over and over["name"] != base.get("name"):
        return {"bias_init"}
    if "weights" in over and over["weights"] in [*read_known_weights()]:
        return {*base} - {*PRESET_FIELDS}
    return {*base}


def _validated(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(_parse_numbers(values))
    except ValidationError as error:
        messages = "; ".join(_message(each) for each in error.errors()[:MAX_LISTED_ERRORS])
        raise UserError(f"{source}: {messages}") from error


def _parse_numbers(value: Any) -> Any:
    """Turn text that is a number into a number: YAML reads 1e-4 as text."""
    if isinstance(value, dict):
        return {key: _parse_numbers(inner) for key, inner in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _message(error: Any) -> str:
    field = shortened(".".join(str(part) for part in error["loc"]))
    if error["type"] == "value_error":  # raised by our own validators
        return str(error["msg"].removeprefix("Value error, "))
    if error["type"] != "extra_forbidden":
        return f"{field or 'recipe'}: {error['msg']} (got {quoted(error['input'])})"
    if field in RENAMED_FIELDS:
        return renamed_field_error(field)
    known = list(_flatten(Recipe().model_dump(mode="json")))
    return f"there is no field {field}{did_you_mean(field, [*known, *Recipe.model_fields])}"


def renamed_field_error(field: str) -> str:
    """Return the error message for a field in RENAMED_FIELDS."""
    return f"{field} has been renamed to {RENAMED_FIELDS[field]}"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat.update(_flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
