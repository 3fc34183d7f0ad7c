import dataclasses

import numpy as np
import pytest
import torch

from cxrlt.training import setup
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model, derive_seed
from cxrlt.training.train import TrainPlan, create_fold_jobs
from tiny import CLASSES, tiny_recipe
from user_errors import raises_user_error


@pytest.fixture
def job(source):
    return create_fold_jobs(source, TrainPlan("setup", tiny_recipe(), folds=(0,)))[0]


def with_recipe(job, **over):
    return dataclasses.replace(job, run=dataclasses.replace(job.run, recipe=tiny_recipe(**over)))


def test_cross_entropy_starts_at_the_log_odds_of_each_class(job):
    job = with_recipe(job, **{"loss.name": "bce"})
    bias = create_initial_model(job, create_fold_loss(job)).classifier.bias
    positives = job.data.train[CLASSES].sum().to_numpy()
    expected = (positives + 0.5) / (len(job.data.train) + 1)
    assert np.allclose(torch.sigmoid(bias).detach(), expected, atol=1e-3)


@pytest.mark.parametrize("backbone", ["test_convnext", "resnet10t"])
def test_a_start_at_zero_is_zero_whatever_the_backbone_does(job, backbone):
    job = with_recipe(job, **{"loss.bias_init": "zero", "model.backbone": backbone})
    assert not create_initial_model(job, create_fold_loss(job)).classifier.bias.any()


def test_class_counts_are_those_of_the_folds_training_rows(job):
    job = with_recipe(job, **{"loss.options": {"class_weights": "prevalence"}})
    prevalence = job.data.train[CLASSES].mean().to_numpy()
    assert np.allclose(create_fold_loss(job).positive_weight, np.exp(1 - prevalence))


def test_a_cosine_head_has_no_bias_to_start_anywhere(job):
    job = with_recipe(job, **{"model.head.name": "cosine"})
    assert create_initial_model(job, create_fold_loss(job)).classifier.bias is None


def test_a_single_label_loss_on_a_multi_label_challenge_is_refused_with_those_that_fit(job):
    with raises_user_error("'ce'", "csv", "bce", "ral"):
        create_fold_loss(with_recipe(job, **{"loss.name": "ce"}))


def test_a_sigmoid_loss_trains_one_class_against_the_rest_where_a_row_has_one(job):
    challenge = dataclasses.replace(job.challenge, task="single_label")
    assert create_fold_loss(dataclasses.replace(job, challenge=challenge)).task == "multi_label"


def test_seeds_differ_by_every_part_and_repeat():
    seeds = {derive_seed(seed, update, rank) for seed in range(3) for update in range(3) for rank in range(3)}
    assert len(seeds) == 27
    assert derive_seed(0, 1, 2) == derive_seed(0, 1, 2)


def test_every_fold_of_every_seed_starts_from_random_weights_of_its_own(source):
    recipe = tiny_recipe()
    jobs = [
        job for seed in (0, 1) for job in create_fold_jobs(source, TrainPlan("random", recipe, seed=seed))
    ]
    first = [create_initial_model(job, create_fold_loss(job)).classifier.weight for job in jobs]
    assert len({weight.detach().numpy().tobytes() for weight in first}) == len(jobs) == 6
    again = create_initial_model(jobs[-1], create_fold_loss(jobs[-1])).classifier.weight
    assert torch.equal(again, first[-1])


def test_kernels_are_timed_and_chosen_only_where_batches_have_few_sizes():
    create_accelerator(tiny_recipe(**{"model.fusion": {"max_images": 2}}))
    assert not torch.backends.cudnn.benchmark
    create_accelerator(tiny_recipe())
    assert torch.backends.cudnn.benchmark


def test_batchnorm_shared_by_processes_keeps_the_activations_in_timms(job, monkeypatch):
    monkeypatch.setattr(setup, "uses_sync_batchnorm", lambda _: True)
    job = with_recipe(job, **{"model.backbone": "test_efficientnet"})
    job.run_dir.mkdir(parents=True, exist_ok=True)
    shared = setup.create_trainer(job, create_accelerator(job.recipe)).raw_model.eval()
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in shared.modules())
    images = {"images": torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)}
    alone = create_initial_model(job, create_fold_loss(job)).eval()
    with torch.no_grad():
        assert torch.allclose(shared(images), alone(images), atol=1e-6)
