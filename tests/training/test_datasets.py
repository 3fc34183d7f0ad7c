"""Which data set a recipe gets."""

import numpy as np
import pytest
import torch

from cxrlt.inputs.dataset import XRayDataset
from cxrlt.inputs.studies import StudyDataset
from cxrlt.recipe import FusionConfig, MixConfig
from cxrlt.training.datasets import create_eval_dataset, create_train_dataset, micro_batch_size
from cxrlt.training.features import create_feature_cache
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs
from tiny import tiny_recipe

FUSION = {"model.fusion": FusionConfig(max_images=4, n_heads=2, dim=16)}


def job_of(source, **over):
    (job,) = create_fold_jobs(source, TrainPlan("data", tiny_recipe(**over), folds=(0,)))
    return job


def features_of(job):
    accelerator = create_accelerator(job.recipe)
    return create_feature_cache(
        create_initial_model(job, create_fold_loss(job)), job.recipe, job.data.cache, accelerator, 0
    )


def test_single_images_are_augmented_in_training_and_left_alone_in_evaluation(source):
    job = job_of(source)
    training = create_train_dataset(job, job.data.cache)
    assert isinstance(training, XRayDataset) and len(training) == len(job.data.train)
    assert not torch.equal(training[0, 3][0]["images"], training[1, 3][0]["images"])
    evaluation = create_eval_dataset(job.recipe, job.data.valid, job.data.classes, job.data.cache)
    image = evaluation[0, 3][0]["images"]
    assert np.array_equal(image[0], job.data.cache[job.data.valid.index[3]])
    assert torch.equal(image, evaluation[1, 3][0]["images"])
    assert evaluation.targets.isnan().all()


def test_a_recipe_that_mixes_mixes_in_training_alone(source):
    over = {"data.mix": MixConfig(kinds=("mixup",), probability=1.0)}
    job = job_of(source, **over)
    draws = np.arange(len(job.data.train))
    mixed = create_train_dataset(job, job.data.cache).targets_of(0, draws)
    assert ((mixed > 0) & (mixed < 1)).any()
    evaluation = create_eval_dataset(job.recipe, job.data.valid, job.data.classes, job.data.cache)
    assert np.array_equal(evaluation[0, 3][0]["images"][0], job.data.cache[job.data.valid.index[3]])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_fusion_gets_studies_of_images_or_of_features(source, frozen):
    job = job_of(source, **FUSION, **{"model.frozen": frozen})
    stored = features_of(job) if frozen else job.data.cache
    for dataset in (
        create_train_dataset(job, stored),
        create_eval_dataset(job.recipe, job.data.train, job.data.classes, stored),
    ):
        assert isinstance(dataset, StudyDataset) and len(dataset) == len(job.data.train) // 2
        inputs = dataset[0, 0][0]
        assert inputs[("features" if frozen else "images")].shape[0] == 4
        assert inputs["present"].tolist() == [True, True, False, False]
    assert create_train_dataset(job, stored).targets.isfinite().all()


def test_a_frozen_backbone_gets_features(source):
    job = job_of(source, **{"model.frozen": True})
    stored = features_of(job)
    for dataset in (
        create_train_dataset(job, stored),
        create_eval_dataset(job.recipe, job.data.train, job.data.classes, stored),
    ):
        assert isinstance(dataset, XRayDataset) and len(dataset) == len(job.data.train)
        row = stored.rows_of([job.data.train.index[5]])[0]
        assert np.array_equal(dataset[7, 5][0]["features"], stored.features[row])


def test_a_device_computes_so_many_images_at_once_however_many_a_row_has(source):
    job = job_of(source, **FUSION, **{"optim.max_batch_per_device": 10})
    assert micro_batch_size(job.recipe, job.data.cache) == 2
    assert micro_batch_size(tiny_recipe(**{"optim.max_batch_per_device": 10}), job.data.cache) == 10
    assert micro_batch_size(tiny_recipe(**FUSION, **{"optim.max_batch_per_device": 3}), job.data.cache) == 1
