"""docs/recipes.md is current, and every recipe field has a meaning and a source."""

import runpy
from pathlib import Path

import pytest
from pydantic import BaseModel

from cxrlt.recipe import Recipe, fields_affecting, override_recipe
from cxrlt.recipe import fields as recipe_fields

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "write_recipe_docs.py"))
FIELDS = [field for section in TOOL["sections"]() for field in section.fields]


def test_the_page_is_current():
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert written == TOOL["page"](), "run: python tools/write_recipe_docs.py docs/recipes.md"


def test_every_field_has_a_meaning_and_a_source():
    assert [field.name for field in FIELDS if not field.meaning.endswith(".")] == []
    assert [field.name for field in FIELDS if not TOOL["SOURCES"].get(field.name)] == []


def test_no_source_names_a_field_that_does_not_exist():
    assert set(TOOL["SOURCES"]) == {field.name for field in FIELDS}


def test_every_section_and_field_of_a_recipe_is_on_the_page():
    classes = [each for each in vars(recipe_fields).values() if isinstance(each, type)]
    sections = [each for each in classes if issubclass(each, BaseModel) and each.model_fields]
    inner = {"model", "data", "loss", "optim", "schedule", "soup", "predict", "head", "fusion"}
    inner |= {"augment", "mix", "sampling", "tta"}
    names = sorted(name for each in sections for name in each.model_fields if name not in inner)
    shown = sorted(field.name.rsplit(".")[-1].replace("OPTION", "options") for field in FIELDS)
    assert shown == names
    assert Recipe in sections


@pytest.mark.parametrize(
    ("name", "change", "effect"),
    [
        ("optim.lr", {"optim": {"lr": 1.0}}, "weights"),
        ("predict.weights", {"predict": {"weights": "best"}}, "weights"),
        ("predict.tta.flip", {"predict": {"tta": {"flip": False}}}, "logits"),
        ("predict.gate", {"predict": {"gate": 1.0}}, "scores"),
        ("checkpoint_minutes", {"checkpoint_minutes": 1.0}, "nothing"),
    ],
)
def test_the_stage_to_repeat_agrees_with_what_a_change_affects(name, change, effect):
    assert fields_affecting(override_recipe(Recipe(), change), effect).keys() == {name}
    repeat = {field.name: field.repeat for field in FIELDS}
    assert repeat[name] == TOOL["REPEAT"][effect]
