"""Features of a backbone: once per image, for just that backbone and those images."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.images import ImageSource
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import FusionConfig, Recipe
from cxrlt.training.features import create_feature_cache, features_key
from cxrlt.training.setup import create_accelerator
from tiny import CLASSES, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

CSRA = {"model.head.name": "csra", "data.size": 64, "optim.max_batch_per_device": 5}


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    return make_tiny(tmp_path, n_patients=4, n_folds=2)


def model_of(recipe: Recipe, seed: int = 0) -> XRayModel:
    torch.manual_seed(seed)
    return create_model(recipe.model, len(CLASSES), recipe.data.size)


def features_of(source: ImageSource, recipe: Recipe, model: XRayModel) -> FeatureCache:
    _, cache = source.load_split("dev", recipe.data.cache_size)
    return create_feature_cache(model, recipe, cache, create_accelerator(recipe), n_workers=0)


def key_of(source: ImageSource, recipe: Recipe, seed: int = 0) -> dict[str, object]:
    _, cache = source.load_split("dev", recipe.data.cache_size)
    return features_key(model_of(recipe, seed), recipe, cache, create_accelerator(recipe))


@pytest.mark.parametrize(("over", "n_tokens"), [(CSRA, 4), (CSRA | {"model.grid": 1}, 1), ({}, 1)])
def test_they_are_what_the_model_computes_of_each_image_by_itself(source, over, n_tokens):
    recipe = tiny_recipe(**over)
    model = model_of(recipe)
    found = features_of(source, recipe, model)
    _, images = source.load_split("dev", recipe.data.cache_size)
    assert sorted(found.ids) == sorted(images.ids)
    assert found.features.shape == (8, n_tokens, 64) and found.features.dtype == np.float32
    for image_id, row in zip(found.ids, found.rows_of(found.ids), strict=True):
        with torch.no_grad():
            expected = model.eval().features(torch.from_numpy(np.array(images[image_id]))[None, None])
        assert np.allclose(found.features[row], expected[0], atol=1e-5)


def test_only_the_middle_of_larger_cached_images_is_seen(source):
    recipe = tiny_recipe(**{"data.crop_pct": 0.5})
    model = model_of(recipe)
    found = features_of(source, recipe, model)
    _, images = source.load_split("dev", 64)
    middle = torch.from_numpy(np.array(images[found.ids[0]][16:48, 16:48]))[None, None]
    with torch.no_grad():
        assert np.allclose(found.features[0], model.features(middle)[0], atol=1e-5)


def test_they_say_what_they_take_on_disk_once_and_are_computed_once(source, capsys):
    recipe = tiny_recipe(**CSRA)
    found = features_of(source, recipe, model_of(recipe))
    said = capsys.readouterr().err
    assert "8 of 8 images" in said and "4 x 64" in said and "GB" in said
    written = (found.directory / "features.npy").stat().st_mtime_ns
    again = features_of(source, recipe, model_of(recipe))
    assert again.directory == found.directory
    assert (found.directory / "features.npy").stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""
    assert found.directory.parent == source.workspace.cache_dir()


def test_what_a_killed_process_has_computed_is_not_computed_again(source):
    recipe = tiny_recipe(**CSRA)
    found = features_of(source, recipe, model_of(recipe))
    computed = np.array(found.features)
    np.save(found.directory / "features.npy", np.full_like(computed, 7))
    np.save(found.directory / "done.npy", np.arange(8) < 3)
    again = features_of(source, recipe, model_of(recipe))
    assert (again.features[:3] == 7).all()
    assert np.allclose(again.features[3:], computed[3:], atol=1e-5)


def test_the_key_knows_whatever_changes_them_and_nothing_else(source):
    recipe = tiny_recipe(**CSRA)
    key = key_of(source, recipe)
    assert key == key_of(source, recipe)
    assert key == key_of(source, tiny_recipe(**CSRA, **{"model.head.weight": 0.5, "optim.lr": 1.0}))
    assert key == key_of(source, tiny_recipe(**CSRA | {"model.head.name": "ml_decoder"}))
    others = [
        key_of(source, recipe, seed=1),
        key_of(source, tiny_recipe(**CSRA | {"data.size": 32})),
        key_of(source, tiny_recipe(**CSRA | {"data.crop_pct": 0.9})),
        key_of(source, tiny_recipe(**CSRA | {"model.grid": 1})),
        key_of(source, tiny_recipe(**CSRA | {"model.normalise": False})),
        key_of(source, tiny_recipe(**CSRA | {"model.head.name": "linear"})),
    ]
    assert all(other != key for other in others)


def test_the_key_is_of_the_content_of_images_not_of_their_place_or_time(source, tmp_path):
    recipe = tiny_recipe(**CSRA)
    key = key_of(source, recipe)
    pictures = source.workspace.inputs_dir("csv") / "pictures"
    os.utime(pictures / "01000_pa.png", ns=(10**18, 10**18))
    assert key_of(source, recipe) == key
    shutil.copytree(source.workspace.inputs_dir("csv"), tmp_path / "copy")
    copy = replace(source, workspace=replace(source.workspace, images=tmp_path / "copy"))
    assert key_of(copy, recipe) == key
    (tmp_path / "copy" / "pictures" / "01000_pa.png").write_bytes((pictures / "01001_pa.png").read_bytes())
    assert key_of(copy, recipe) != key == key_of(source, recipe)


def test_an_option_that_changes_no_weight_is_another_backbone(source):
    options = ({"act_layer": "silu"}, {"act_layer": "relu"})
    one, other = (key_of(source, tiny_recipe(**CSRA | {"model.options": each})) for each in options)
    assert one["weights"] == other["weights"]
    assert one != other


def test_one_changed_weight_or_buffer_is_another_backbone(source):
    recipe = tiny_recipe(**CSRA | {"model.backbone": "resnet10t"})
    _, cache = source.load_split("dev", 64)
    model, accelerator = model_of(recipe), create_accelerator(recipe)
    keys = [features_key(model, recipe, cache, accelerator)["weights"]]
    for name in ("conv1.0.weight", "bn1.running_var"):
        model.backbone.state_dict()[name].view(-1)[0] += 0.5
        keys.append(features_key(model, recipe, cache, accelerator)["weights"])
    assert len(set(keys)) == 3


def test_an_image_that_was_replaced_is_not_taken_for_the_one_before(source):
    recipe = tiny_recipe()
    before = features_of(source, recipe, model_of(recipe))
    pictures = source.workspace.inputs_dir("csv") / "pictures"
    other = (pictures / "01001_pa.png").read_bytes()
    assert len(other) != (pictures / "01000_pa.png").stat().st_size
    (pictures / "01000_pa.png").write_bytes(other)
    after = features_of(source, recipe, model_of(recipe))
    row = after.rows_of(["01000_pa"])[0]
    assert not np.allclose(after.features[row], before.features[before.rows_of(["01000_pa"])[0]])


def test_a_fusion_and_a_head_of_single_images_share_the_features_of_one_backbone(source):
    fusing = tiny_recipe(**CSRA | {"model.fusion": FusionConfig(max_images=2, n_heads=2, dim=16)})
    assert key_of(source, fusing) == key_of(source, tiny_recipe(**CSRA))
