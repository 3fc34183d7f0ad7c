"""The table weights.yaml, and model.weights as a preset in YAML files, in --config and as a flag."""

import numpy as np
import pytest

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.recipe import load_recipe, override_recipe, save_recipe
from cxrlt.recipe.known_weights import (
    PRESET_FIELDS,
    KnownWeights,
    known_weights,
    read_known_weights,
    weights_table,
)
from doc_pages import ROOT, Page

ROWS = read_known_weights()


def preset(recipe):
    return {name: getattr(recipe.model, name) for name in PRESET_FIELDS}


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_sets_its_fields_and_no_other(name, tmp_path):
    base = load_recipe("ral_convnext_small")
    recipe = load_recipe(
        written(
            tmp_path, "mine.yaml", f"base: ral_convnext_small\nmodel: {{weights: {name}, pretrained: w}}\n"
        )
    )
    assert preset(recipe) == ROWS[name].recipe_fields()
    names = {"weights": None, "pretrained": True, **preset(base)}
    assert recipe.model_copy(update={"model": recipe.model.model_copy(update=names)}) == base


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_where_the_file_is_and_where_its_facts_were_read(name):
    row = ROWS[name]
    assert row.address.startswith(("hf-hub:", "https://", "PyPI "))
    assert all([row.title, row.licence, row.layout, row.source])
    assert row.pretrained_on or "not confirmed" in row.title
    assert row.restricted >= (row.licence in ("none stated", "not confirmed"))


def test_only_a_file_that_was_really_loaded_is_marked_as_opened():
    assert [name for name, row in ROWS.items() if row.opened] == ["efficientnet-lite0-imagenet"]


@pytest.mark.parametrize("name", ["txv-densenet121-all", "txv-resnet50-all"])
def test_torchxrayvision_gets_pixels_from_minus_1024_to_1024(name):
    mean, std = ROWS[name].mean, ROWS[name].std
    assert [(pixel / 255 - mean) / std for pixel in (0, 127.5, 255)] == [-1024, 0, 1024]


def test_the_table_lists_every_row_with_its_terms():
    lines = weights_table().splitlines()
    assert [line.split()[0] for line in lines] == ["name", *ROWS]
    (ark,) = [line for line in lines if line.startswith("ark-6")]
    assert " 224 " in ark
    assert " yes " in ark.partition("non-commercial")[2]
    assert ark.endswith("  no")


def test_fields_beside_the_name_win(tmp_path):
    text = "model: {weights: eva-x-base, pretrained: w.pt, mean: 0.4, options: {patch_size: 14}}\n"
    recipe = load_recipe(written(tmp_path, "mine.yaml", text))
    assert preset(recipe) == {
        "backbone": "eva02_base_patch14_224",
        "options": {"patch_size": 14},
        "mean": 0.4,
        "std": 0.28509,
        "pretrained_on": (),
    }


def test_a_row_replaces_the_row_and_the_fields_of_the_base(tmp_path):
    fields = "weights: chexfound, pretrained: w.pth, mean: 0.1, drop_path: 0.2"
    base = written(tmp_path, "base.yaml", f"model: {{{fields}}}\n")
    middle = written(tmp_path, "middle.yaml", f"base: {base}\nmodel: {{weights: eva-x-base}}\n")
    mine = load_recipe(written(tmp_path, "mine.yaml", f"base: {middle}\noptim: {{lr: 0.1}}\n"))
    assert preset(mine) == ROWS["eva-x-base"].recipe_fields()
    assert mine.model.drop_path == 0.2
    assert preset(load_recipe(middle)) == preset(mine)
    without = load_recipe(written(tmp_path, "none.yaml", f"base: {base}\nmodel: {{weights: null}}\n"))
    assert (without.model.weights, without.model.mean) == (None, 0.1)


def test_no_row_is_called_like_a_value_of_predict_weights():
    """The fields that a row resets are looked up by the name of the row only."""
    assert not {"last", "best", "best_holdout"} & {*ROWS}


@pytest.mark.parametrize("separator", [" ", "="])
def test_a_flag_applies_a_row_together_with_its_file(separator):
    flags = f"--model.weights{separator}eva-x-base --model.pretrained{separator}e.pt".split()
    fields = cli.parse(["train", "ral_convnext_small", *flags]).fields
    assert preset(fields) == ROWS["eva-x-base"].recipe_fields()
    assert str(fields.model.pretrained) == "e.pt"
    flags = [flag.replace("e.pt", "False") for flag in flags]
    assert cli.parse(["train", "ral_convnext_small", *flags]).fields.model.pretrained is False


@pytest.mark.parametrize("file", [[], ["--model.pretrained", "True"]], ids=["no file", "True"])
def test_a_row_as_a_flag_without_its_file_is_an_error(file):
    with pytest.raises(
        UserError, match=r"model.weights eva-x-base needs model.pretrained FILE, from hf-hub:"
    ):
        cli.parse(["train", "ral_convnext_small", "--model.weights", "eva-x-base", *file])


def test_the_flag_none_removes_the_name_and_keeps_the_fields(tmp_path):
    config = written(tmp_path, "over.yaml", "model: {weights: eva-x-base, pretrained: e.pt}\n")
    fields = cli.parse(["train", "ral_convnext_small", "--config", config, "--model.weights", "None"]).fields
    assert fields.model.weights is None
    assert preset(fields) == ROWS["eva-x-base"].recipe_fields()


def test_a_config_and_a_flag_apply_a_row_and_other_flags_win(tmp_path):
    config = written(tmp_path, "over.yaml", "model: {weights: rad-dino, pretrained: r.safetensors}\n")
    train = ["train", "ral_convnext_small", "--config", config]
    assert preset(cli.parse(train).fields) == ROWS["rad-dino"].recipe_fields()
    flags = ["--model.weights=eva-x-base", "--model.pretrained", "e.pt"]
    assert preset(cli.parse([*train, *flags]).fields) == ROWS["eva-x-base"].recipe_fields()
    assert str(cli.parse([*train, *flags]).fields.model.pretrained) == "e.pt"
    fields = cli.parse([*train, *flags, "--model.std", "0.3", "--model.pretrained-on", "mimic"]).fields
    assert (fields.model.mean, fields.model.std, fields.model.pretrained_on) == (0.49185, 0.3, ("mimic",))
    fields = cli.parse([*train, *flags, "--model.options.patch-size", "14"]).fields
    assert fields.model.options == {"patch_size": 14, "ref_feat_shape": 14}


@pytest.mark.parametrize("name", ROWS)
def test_a_saved_recipe_with_a_row_loads_as_it_was(name, tmp_path):
    model = {"weights": name, "pretrained": "w.pth", "std": (0.1, 0.2, 0.3)}
    recipe = override_recipe(load_recipe("ral_convnext_small"), {"model": model})
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(None, tmp_path / "config.yaml") == recipe
    assert load_recipe("ral_swin_base", tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("weights", "pretrained", "sentence"),
    [
        ("rad-dno", "w", r"model.weights 'rad-dno' is not in the table \(did you mean rad-dino\?\)"),
        ("x" * 500, "w", "x…' is not in the table: see `cxrlt weights`$"),
        (5, "w", "model.weights: .*string"),
        (["rad-dino"], "w", "model.weights: .*string"),
        ("rad-dino", True, r"model.weights rad-dino needs model.pretrained FILE, from hf-hub:"),
    ],
    ids=["unknown", "long", "number", "list", "no file"],
)
def test_a_row_that_cannot_be_applied_is_one_sentence(weights, pretrained, sentence):
    fields = {"model": {"weights": weights, "pretrained": pretrained}}
    with pytest.raises(UserError, match=sentence):
        override_recipe(load_recipe("ral_convnext_small"), fields)


def test_a_row_without_a_file_is_enough_for_random_weights_and_for_the_weights_of_a_run():
    for model in ({"pretrained": False}, {"init_from": "first"}):
        recipe = override_recipe(
            load_recipe("ral_convnext_small"), {"model": {"weights": "rad-dino", **model}}
        )
        assert recipe.model.backbone == "vit_base_patch14_dinov2"


def test_an_unknown_field_of_a_row_is_an_error():
    with pytest.raises(ValueError, match="heads"):
        KnownWeights.model_validate({**known_weights("rad-dino").model_dump(), "heads": 12})


def table_line(name: str, row: KnownWeights) -> str:
    options = "".join(f", `{key}: {value}`" for key, value in row.options.items())
    licence = f"**{row.licence}**" if row.restricted else row.licence
    sets = ", ".join(row.pretrained_on) or "not confirmed"
    values = [" ".join(f"{each:.6g}" for each in np.atleast_1d(value)) for value in (row.mean, row.std)]
    cells = (f"`{name}`", f"`{row.backbone}`{options}", str(row.size), *values, licence, sets)
    return f"| {' | '.join(cells)} | {'yes' if row.opened else 'no'} |"


def source_line(name: str, row: KnownWeights) -> str:
    return f"| `{name}` | {row.title} | {row.address} | {row.layout} | {row.source} |"


def test_the_page_shows_every_row_as_it_is():
    """To renew the page, copy the lines that this test prints."""
    page = Page(ROOT / "docs" / "pretrained.md").text
    lines = [line(name, row) for line in (table_line, source_line) for name, row in ROWS.items()]
    assert [line for line in lines if line not in page.splitlines()] == []
