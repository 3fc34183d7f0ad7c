import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cxrlt.training.batches import batch_denominator
from cxrlt.training.setup import create_summed_loss, create_trainer, initial_model, seed_of
from cxrlt.training.train import TrainPlan, _jobs
from tiny import CLASSES, tiny_recipe


@pytest.fixture
def job(source):
    return _jobs(source, TrainPlan("setup", tiny_recipe(), folds=(0,)))[0]


def with_recipe(job, **over):
    return dataclasses.replace(job, recipe=tiny_recipe(**over))


def test_cross_entropy_starts_at_the_log_odds_of_each_class(job):
    job = with_recipe(job, **{"loss.name": "binary_cross_entropy"})
    bias = initial_model(job, create_summed_loss(job)[0]).classifier.bias
    positives = job.train[CLASSES].sum().to_numpy()
    expected = (positives + 0.5) / (len(job.train) + 1)
    assert np.allclose(torch.sigmoid(bias).detach(), expected, atol=1e-3)


def test_zero_start_leaves_the_bias_of_the_backbone(job):
    job = with_recipe(job, **{"loss.bias_start": "zero"})
    assert not initial_model(job, create_summed_loss(job)[0]).classifier.bias.any()


def test_class_counts_are_those_of_the_folds_training_rows(job):
    job = with_recipe(job, **{"loss.options": {"class_weights": "prevalence"}})
    loss, _ = create_summed_loss(job)
    prevalence = job.train[CLASSES].mean().to_numpy()
    assert np.allclose(loss.positive_weight, np.exp(1 - prevalence))


@pytest.mark.parametrize(("reduction", "expected"), [("batchmean", 4), ("mean", 11), ("sum", 1)])
def test_the_sum_over_parts_is_divided_by_what_the_whole_batch_holds(job, reduction, expected):
    job = with_recipe(job, **{"loss.options": {"reduction": reduction}})
    trainer = create_trainer(job, Accelerator(), n_updates=10)
    trainer.dataset.targets[2, 1] = float("nan")
    assert batch_denominator(trainer, np.array([0, 1, 2, 3])) == expected


def test_seeds_differ_by_every_part_and_repeat():
    seeds = {seed_of(seed, update, rank) for seed in range(3) for update in range(3) for rank in range(3)}
    assert len(seeds) == 27
    assert seed_of(0, 1, 2) == seed_of(0, 1, 2)
