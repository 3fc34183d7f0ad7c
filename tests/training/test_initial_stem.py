"""Runs on grey images whose backbone keeps the three channels of its initial weights."""

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from cxrlt.predictions.predict import predict
from cxrlt.training.setup import create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from tiny import load_weights, make_tiny, tiny_recipe
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

STEM = "backbone.conv_stem.weight"


def plan(name, **over):
    fields = {"model.backbone": "test_efficientnet", "schedule.epochs": 1, "data.size": 64}
    return TrainPlan(name, tiny_recipe(**fields | over), folds=(0,))


def initial_model(source, plan, log=lambda _: None):
    (job,) = create_fold_jobs(source, plan)
    return create_initial_model(job, create_fold_loss(job), log)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny challenge with the run `base` of two stages, and a file of weights that is deleted since."""
    root = tmp_path_factory.mktemp("stem")
    source, path = make_tiny(root), root / "model.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    stages = {"schedule.stages": ({"epochs": 1, "frozen": True},)}
    (job,) = train(source, plan("base", **{"model.pretrained": path} | stages))
    path.unlink()
    return source, path, job


def test_a_run_keeps_three_channels_through_its_stages_and_predicts_without_the_file(trained):
    source, _, job = trained
    assert load_weights(job)[STEM].shape[1] == 3
    (predictions,) = predict(source, "base", "oof")
    assert pd.read_parquet(predictions).notna().all(axis=None)


def test_another_run_starts_from_it_without_the_file(trained):
    source, path, job = trained
    lines = []
    over = {"model.pretrained": path, "model.init_from": "base"}
    model = initial_model(source, plan("next", **over), lines.append)
    assert model.in_chans == 3
    assert torch.equal(model.state_dict()[STEM], load_weights(job)[STEM])
    assert lines == ["fold 0: backbone and head from csv:base fold 0"]


def test_a_run_whose_own_stem_has_one_channel_cannot_start_from_it(trained):
    source, _, _ = trained
    with raises_user_error("csv:base fold 0", STEM.removeprefix("backbone."), "three channels"):
        initial_model(source, plan("other", **{"model.pretrained": False, "model.init_from": "base"}))


def test_the_file_of_a_run_gives_lines_about_its_weights(trained, tmp_path):
    source, _, job = trained
    over = {"model.pretrained": job.run_dir / "weights.safetensors", "model.mean": 0.5}
    lines = []
    initial_model(source, plan("from file", **over), lines.append)
    assert any("mean 0.5 (recipe)" in line for line in lines)
