import pytest

from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.challenges.base import DEFAULT_RECIPES
from cxrlt.errors import UserError
from cxrlt.recipe import (
    Recipe,
    differing_fields,
    load_recipe,
    override_recipe,
    recipe_names,
    run_name,
    save_recipe,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_named_recipe_is_valid_and_survives_its_own_file(name, tmp_path):
    recipe = load_recipe(name)
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(None, tmp_path / "config.yaml") == recipe


FROM_INPUTS = ("aptos2019", "csv", "cxrlt2026-task1", "folder")


def test_default_recipes_of_every_challenge_exist():
    fixed = [name for name in challenge_names() if name not in FROM_INPUTS]
    default = {recipe for name in fixed for recipe in get_challenge(name).recipes}
    default |= {recipe for recipes in DEFAULT_RECIPES.values() for recipe in recipes}
    assert default <= set(recipe_names())


def test_a_file_overrides_its_base_and_the_config_overrides_both(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: demo_darknet\noptim: {lr: 1e-4}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe.model.backbone == "cs3darknet_s"
    assert recipe.optim.lr == 1e-4  # which YAML reads as text
    assert recipe.optim.batch_size == load_recipe("demo_resnet").optim.batch_size
    (tmp_path / "over.yaml").write_text("base: ral_swin_base\noptim: {lr: 5}\n")
    assert load_recipe(str(tmp_path / "mine.yaml"), tmp_path / "over.yaml").optim.lr == 5
    assert load_recipe(str(tmp_path / "mine.yaml"), tmp_path / "over.yaml").model == recipe.model
    assert load_recipe(None, tmp_path / "over.yaml").model == load_recipe("ral_swin_base").model


def test_another_loss_does_not_inherit_options(tmp_path):
    (tmp_path / "base.yaml").write_text("loss: {name: ral, options: {form: released}}\n")
    (tmp_path / "mine.yaml").write_text(f"base: {tmp_path / 'base.yaml'}\nloss: {{name: bce}}\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).loss.options == {}
    (tmp_path / "mine.yaml").write_text(f"base: {tmp_path / 'base.yaml'}\nloss: {{options: {{clip: 0.1}}}}\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).loss.options == {"form": "released", "clip": 0.1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optim: {lrr: 1}", r"there is no field optim\.lrr \(did you mean optim\.lr\?\)"),
        ("optim: {lr: fast}", r"optim\.lr: .*number.*'fast'"),
        ("optim: {lr: -1}", r"optim\.lr: .*greater than 0"),
        ("optm: {lr: 1}", "no field optm"),
        ("data: {augment: {crop_scale: [0.9, 0.5]}}", "0 < low <= high <= 1"),
        ("base: ral_convnext_smal", "did you mean ral_convnext_small"),
        ("- 1", "should contain fields"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_fault_in_a_recipe_is_a_sentence_that_names_file_and_field(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match=r"did you mean demo_resnet.*ral_maxvit_tiny"):
        load_recipe("demo_resnt")
    with pytest.raises(UserError, match=r"absent\.yaml does not exist"):
        load_recipe("absent.yaml")


def test_differing_fields_are_named_with_both_values():
    other = Recipe.model_validate({"optim": {"lr": 1}, "loss": {"options": {"clip": 0.1}}})
    assert differing_fields(Recipe(), other) == [
        "loss.options: {} -> None",
        "optim.lr: 0.0001 -> 1.0",
        "loss.options.clip: None -> 0.1",
    ]


def test_images_are_cached_larger_with_crop_pct():
    assert Recipe.model_validate({"data": {"size": 224, "crop_pct": 0.875}}).data.cache_size == 256
    assert Recipe.model_validate({"data": {"size": 96}}).data.cache_size == 96


def test_an_augmentation_policy_sets_all_fields_except_given_ones_and_flip():
    augment = Recipe.model_validate({"data": {"augment": {"policy": "strong", "noise": 0}}}).data.augment
    assert (augment.noise, augment.gamma, augment.crop_scale) == (0, 0.3, (0.6, 1.0))
    medium = Recipe.model_validate({"data": {"augment": {"policy": "medium"}}}).data.augment
    assert medium.model_dump(exclude={"policy"}) == Recipe().data.augment.model_dump(exclude={"policy"})


def test_a_policy_overrides_the_values_of_the_recipe_except_flip(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {augment: {flip: false, rotate: 3, erase: 0.5}}\n")
    for policy, expected in (("light", (5.0, 0.0)), ("custom", (3.0, 0.5))):
        text = f"base: {tmp_path / 'base.yaml'}\ndata: {{augment: {{policy: {policy}}}}}\n"
        (tmp_path / "mine.yaml").write_text(text)
        augment = load_recipe(str(tmp_path / "mine.yaml")).data.augment
        assert (augment.rotate, augment.erase) == expected
        assert augment.flip is False


def test_the_default_run_name_is_that_of_the_recipe():
    assert run_name("demo_resnet") == "demo_resnet"
    assert run_name("some/where/mine.yaml") == "mine"
    with pytest.raises(UserError, match="--name"):
        run_name(None)


def test_override_recipe_works_like_a_file():
    light = override_recipe(load_recipe("demo_resnet"), {"data": {"augment": {"policy": "light"}}})
    assert light.data.augment.crop_scale == (0.9, 1.0)
    assert light.optim == load_recipe("demo_resnet").optim
    with pytest.raises(UserError, match=r"optim.lr: .*greater than 0"):
        override_recipe(light, {"optim": {"lr": -1}})


def test_conflicting_fields_are_named_without_the_others():
    over = {"model": {"frozen": True}, "data": {"mix": {"kinds": ("mixup",)}}}
    with pytest.raises(UserError) as raised:
        override_recipe(Recipe(), over)
    assert "data.mix mixes single images" in str(raised.value)
    assert len(str(raised.value)) < 200
    with pytest.raises(UserError, match=r"normalise False ignores model\.mean and model\.std"):
        override_recipe(Recipe(), {"model": {"normalise": False, "std": 0.5}})


def test_a_tilde_in_a_base_and_in_a_file_of_weights_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("model: {pretrained: ~/weights.safetensors}\n")
    (tmp_path / "mine.yaml").write_text("base: ~/base.yaml\n")
    recipe = load_recipe("~/mine.yaml")
    assert recipe.model.pretrained == tmp_path / "weights.safetensors"
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(None, tmp_path / "config.yaml") == recipe
