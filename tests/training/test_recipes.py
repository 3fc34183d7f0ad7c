"""Every recipe that comes with the package, shrunk to a CPU by flags of `cxrlt train`."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from cxrlt import cli
from cxrlt.losses import loss_names
from cxrlt.recipe import load_recipe, recipe_names
from cxrlt.training.datasets import create_train_dataset
from cxrlt.training.setup import create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from sampled_cases import sample_cases

pytestmark = pytest.mark.slow

SMALL = ["--model.backbone", "resnet10t", "--model.pretrained", "False", "--data.size", "64"]


def plan_of(name, *flags):
    return TrainPlan(name, cli.parse(["train", name, *SMALL, *flags]).fields, folds=(0,))


def one_epoch(name):
    """The recipe's last stage alone, for an epoch."""
    plan = plan_of(name)
    schedule = plan.recipe.schedule.model_copy(update={"epochs": 1, "stages": ()})
    return dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"schedule": schedule}))


@pytest.mark.parametrize("name", sample_cases(recipe_names(), every=4))
def test_every_recipe_trains_on_a_cpu_with_a_small_backbone(name, source, single_source):
    single = load_recipe(name).loss.name in loss_names("single_label")
    plan = one_epoch(name)
    first = plan.recipe.model.init_from
    if first is not None:
        train(source, one_epoch(first))
    (job,) = train(single_source if single else source, plan)
    log = pd.read_csv(job.run_dir / "log.csv")
    assert np.isfinite(log["loss"]).all()
    start = create_initial_model(job, create_fold_loss(job)).state_dict()
    weights = load_file(job.run_dir / "weights.safetensors")
    still = [k for k, value in weights.items() if value.ndim > 1 and np.array_equal(start[k], value)]
    assert [k for k in still if not (plan.recipe.model.frozen and k.startswith("backbone."))] == []


@pytest.mark.parametrize("name", ["lmf_efficientnetv2_s", "lmf_resnet50", "lmf_densenet121"])
def test_the_lmf_recipes_train_on_radiographs_as_they_are(name, single_source):
    recipe = plan_of(name).recipe
    (job,) = create_fold_jobs(single_source, dataclasses.replace(plan_of(name), name=f"{name}-plain"))
    dataset = create_train_dataset(job, job.data.cache)
    for row in range(len(dataset)):
        image = dataset[(3, row)][0]["images"]
        assert np.array_equal(image[0], job.data.cache[job.data.train.index[row]])
    model = create_initial_model(job, create_fold_loss(job))
    assert (model.mean.item(), model.std.item()) == (0, 1)
    assert not model.classifier.bias.any()
    assert recipe.optim.clip_grad is None


def test_the_swin_recipe_sees_the_central_224_of_256_pixels(source):
    assert (
        load_recipe("class_aware_swin_base").data.size,
        load_recipe("class_aware_swin_base").data.cache_size,
    ) == (224, 256)
    flags = ["--data.augment.flip", "False", "--data.augment.rotate", "0"]
    (job,) = create_fold_jobs(
        source, dataclasses.replace(plan_of("class_aware_swin_base", *flags), name="swin-cut")
    )
    whole = job.data.cache[job.data.train.index[0]]
    assert whole.shape == (73, 73)
    assert np.array_equal(
        create_train_dataset(job, job.data.cache)[(0, 0)][0]["images"][0], whole[4:68, 4:68]
    )
