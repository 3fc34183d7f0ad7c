"""A run from every layout of published weights: the file starts a training, and its fold predicts."""

from pathlib import Path

import pytest
import timm
import torch
from foreign_checkpoints import BACKBONES, LAYOUTS
from safetensors.torch import load_file
from timm.layers import SwiGLUPacked

from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_predictions
from cxrlt.training.train import TrainPlan, train
from tiny import CLASSES, make_tiny, tiny_recipe

pytestmark = pytest.mark.full

WHOLE = {"swin": ("swin_tiny_patch4_window7_224", {"img_size": 64}), "resnet": ("resnet50", {})}
"""Backbones that a recipe cannot make smaller: model.options has no lists."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("foreign"), n_patients=8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_starts_from_the_file_and_predicts(layout, source, tmp_path):
    name, to_file = LAYOUTS[layout]
    model, given = WHOLE.get(name, BACKBONES[name])
    if given.get("img_size") == 28:  # a recipe has at least 32 pixels
        given = given | {"img_size": 42}
    initial = timm.create_model(model, pretrained=False, num_classes=2, **given).state_dict()
    options = {key: "SwiGLUPacked" if value is SwiGLUPacked else value for key, value in given.items()}
    size = options.pop("img_size", 32)
    path = Path(tmp_path / "weights.pth")
    torch.save(to_file({key: value.clone() for key, value in initial.items()}), path)
    recipe = tiny_recipe(
        **{
            "model.backbone": model,
            "model.options": options,
            "model.pretrained": path,
            "model.mean": 0.5,
            "model.std": 0.25,
            "data.size": size,
            "schedule.epochs": 1,
            "optim.lr": 1e-6,
        }
    )
    run = "-".join(layout.split()).replace("/", "-")
    (job,) = train(source, TrainPlan(run, recipe, folds=(0,)))
    trained = load_file(job.run_dir / "weights.safetensors")
    filled = [key for key in trained if key.startswith("backbone.") and key.endswith("weight")]
    assert len(filled) > 5
    for key in filled:
        before, after = initial[key.removeprefix("backbone.")].float(), trained[key]
        if before.shape == after.shape:  # not the stem, which sums over channels
            torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-2)
    (predictions,) = predict(source, run, "oof")
    assert read_predictions(predictions, CLASSES)[0].notna().all(axis=None)
