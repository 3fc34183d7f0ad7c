"""Recipes that are valid YAML but not valid recipes."""

import re

import pytest

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.heads import HEADS
from cxrlt.recipe import RENAMED_FIELDS, Recipe, load_recipe

RECIPES = {
    "true for a number": ("optim: {lr: true}", r"lr cannot be true or false \(got True\)"),
    "yes for a count": ("schedule: {epochs: yes}", r"epochs cannot be true or false"),
    "true in a pair": ("data: {augment: {crop_scale: [true, 1]}}", "crop_scale cannot be true or false"),
    "true in a stage": ("schedule: {stages: [{epochs: true}]}", "epochs cannot be true or false"),
    "true for a name": ("model: {backbone: true}", "backbone cannot be true or false"),
    "infinite": ("optim: {lr: .inf}", r"optim\.lr: Input should be a finite number"),
    "no number": ("optim: {lr: .nan}", r"optim\.lr: Input should be a finite number"),
    "no number as text": ("optim: {lr: nan}", r"optim\.lr: Input should be a finite number"),
    "a number too large for a float": ("optim: {lr: 1e400}", r"optim\.lr: Input should be a finite number"),
    "no number for an option": ("loss: {options: {gamma: .nan}}", "finite number"),
    "infinite in a list": ("predict: {tta: {scales: [.inf]}}", "finite number"),
    "an image of a billion pixels": (
        "data: {size: 1000000000}",
        r"data\.size: .*less than or equal to 10000",
    ),
    "epochs without end": ("schedule: {epochs: 1e30}", r"schedule\.epochs: "),
    "an overlong count": (f"schedule: {{epochs: {'9' * 100}}}", r"schedule\.epochs: "),
    "a fraction of an epoch": (
        "schedule: {epochs: 1.5}",
        r"schedule\.epochs: Input should be a valid integer",
    ),
    "a word for a section": ("optim: fast", r"optim: Input should be a valid dictionary"),
    "a list for a section": ("optim: [1]", r"optim: Input should be a valid dictionary"),
    "nothing for a section": ("optim:", r"optim: Input should be a valid dictionary"),
    "a mapping for a number": ("optim: {lr: {a: 1}}", r"optim\.lr: Input should be a valid number"),
    "a list for a policy": ("data: {augment: {policy: [light]}}", r"policy: Input should be 'custom'"),
    "a mapping for a policy": ("data: {augment: {policy: {a: b}}}", r"policy: Input should be 'custom'"),
    "a word for stages": ("schedule: {stages: many}", r"schedule\.stages: Input should be a valid tuple"),
    "a word for options": ("loss: {options: many}", r"loss\.options: Input should be a valid dictionary"),
    "a mapping for an option": ("loss: {options: {a: {b: 1}}}", r"loss\.options\.a"),
    "a number for an option's name": ("loss: {options: {1: 2}}", r"loss\.options"),
    "a date for a name": ("loss: {name: 2020-01-01}", r"loss\.name: Input should be a valid string"),
    "a number for a base": ("base: 3", "base: 3 is not the name of a recipe"),
    "a list for a base": ("base: [a, b]", "base: .* is not the name of a recipe"),
    "true for a base": ("base: true", "base: True is not the name of a recipe"),
    "a NUL in a base": ('base: "a\\0.yaml"', "does not exist"),
    "a base that is not there": ("base: /none/a.yaml", r"/none/a\.yaml does not exist"),
    "a base that is a folder": ("base: FOLDER/folder.yaml", r"folder\.yaml is a folder"),
    "a base of itself": ("base: FOLDER/mine.yaml", r"each other's base: .*mine\.yaml -> .*mine\.yaml"),
    "a base with a long name": (f"base: {'x' * 100_000}", "Unknown recipe 'xxx.*…"),
    "a field with a long name": (f"? {'x' * 1000}\n: 1", "there is no field xxx"),
    "many unknown fields": (
        "\n".join(f"k{n}: 1" for n in range(10_000)),
        "there is no field k0; there is no",
    ),
    "a key twice": ("optim: {lr: 1, lr: 2}", "the key 'lr' twice"),
    "a section twice": ("optim: {lr: 1}\nmodel: {}\noptim: {}", "line 3, column 1: the key 'optim' twice"),
    "an escape sequence": ('"\\e[31m": 1', r"there is no field \\x1b"),
}


@pytest.mark.parametrize(("text", "sentence"), RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("as_config", [False, True])
def test_a_wrong_recipe_is_a_user_error(text, sentence, as_config, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("FOLDER", str(tmp_path)))
    with pytest.raises(UserError, match=sentence) as raised:
        load_recipe(None, path) if as_config else load_recipe(str(path))
    assert len(str(raised.value)) < 2000
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(("old", "new"), RENAMED_FIELDS.items())
@pytest.mark.parametrize("as_config", [False, True])
def test_an_old_field_name_is_an_error_that_gives_the_new_one(old, new, as_config, tmp_path):
    section, name = old.split(".")
    path = tmp_path / "mine.yaml"
    path.write_text(f"{section}: {{{name}: 1}}\n")
    with pytest.raises(UserError, match=rf"mine\.yaml: {re.escape(f'{old} has been renamed to {new}')}$"):
        load_recipe(None, path) if as_config else load_recipe(str(path))


@pytest.mark.parametrize(("old", "new"), RENAMED_FIELDS.items())
@pytest.mark.parametrize("written", ["--{} 1", "--{}=1"])
def test_an_old_flag_is_an_error_that_gives_the_new_one(old, new, written, capsys):
    flag = written.format(old.replace("_", "-"))
    with pytest.raises(SystemExit) as raised:
        cli.main(["train", "demo_resnet", *flag.split()])
    assert raised.value.code == 2
    assert f"{old} has been renamed to {new}" in capsys.readouterr().err


def test_every_new_name_is_a_field_or_an_option_of_a_head():
    options = {f"model.head.{option}" for head in HEADS.values() for option in head.options}
    for old, new in RENAMED_FIELDS.items():
        section, _, name = new.partition(".")
        assert name in type(getattr(Recipe(), section)).model_fields or new in options
        section, _, name = old.partition(".")
        assert name not in type(getattr(Recipe(), section)).model_fields


def test_a_cycle_of_bases_is_an_error_that_names_them_in_order(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: {one}\n")
    with pytest.raises(UserError, match=r"each other's base: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        load_recipe(str(one))


def test_numbers_as_text_and_bools_for_bool_fields_are_accepted(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfoptim: {lr: 1e-4}\r\nschedule: {epochs: 1e1}\r\nmodel: {pretrained: no}\r\n"
    )
    recipe = load_recipe(str(path))
    assert (recipe.optim.lr, recipe.schedule.epochs, recipe.model.pretrained) == (1e-4, 10, False)
