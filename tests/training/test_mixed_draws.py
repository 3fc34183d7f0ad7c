"""Rows drawn by weight and images made of several, trained on for real."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cxrlt.errors import UserError
from cxrlt.training.batches import batch_stream, epoch_draws, global_batch_denominators
from cxrlt.training.setup import create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import stop_in_update
from tiny import load_weights, same_weights, tiny_recipe

MIX = {"kinds": ["mixup", "cutmix", "mosaic"], "probability": 0.8}
SAMPLING = {"kind": "repeat_factor", "threshold": 0.5}


def recipe_of(**over: object):
    values = tiny_recipe(**over).model_dump()
    values["data"] |= {"mix": MIX, "sampling": SAMPLING}
    return tiny_recipe().model_validate(values)


def trainer_of(source, name: str, recipe):
    (job,) = create_fold_jobs(source, TrainPlan(name, recipe, folds=(0,)))
    job.run_dir.mkdir(parents=True)
    return create_trainer(job, Accelerator(cpu=True))


def test_an_interrupted_run_draws_and_mixes_what_it_would_have(source):
    recipe = recipe_of()
    (whole,) = train(source, TrainPlan("mixed", recipe, folds=(0,)))
    with stop_in_update(6):
        train(source, TrainPlan("mixed-stopped", recipe, folds=(0,)))
    (resumed,) = train(source, TrainPlan("mixed-stopped", recipe, folds=(0,)))
    assert same_weights(load_weights(resumed), load_weights(whole))


def test_rare_rows_are_drawn_more_often_in_an_epoch_of_the_same_length(source):
    trainer = trainer_of(source, "draws", recipe_of())
    rare = trainer.dataset.targets[:, 2] == 1
    n_rows = len(trainer.dataset)
    draws = [np.concatenate(epoch_draws(trainer, epoch)) for epoch in range(5)]
    assert all(len(epoch) == n_rows for epoch in draws)
    rows = torch.from_numpy(np.concatenate(draws) % n_rows)
    assert rare[rows].float().mean() > 1.15 * rare.float().mean()


def test_the_denominators_are_those_of_the_labels_that_are_trained_on(source):
    trainer = trainer_of(source, "denominators", recipe_of(**{"optim.max_batch_per_device": 3}))
    trainer.dataset.targets[::3] = torch.nan  # a mixed image's labels are unknown where one of its parts' are
    trainer.progress.update = trainer.updates_per_epoch  # the second epoch's first
    for batch in batch_stream(trainer):
        micro = [labels for _, labels in batch.micro_batches()]
        labels = torch.cat(micro)
        targets = trainer.dataset.targets_of(1, batch.draws)
        torch.testing.assert_close(labels, targets, rtol=0, atol=0, equal_nan=True)
        found = global_batch_denominators(trainer, batch, micro[0])
        assert torch.equal(found, trainer.loss.denominators(labels))


def test_a_union_of_labels_is_refused_before_training_where_an_image_has_one_class(single_source):
    values = tiny_recipe(**{"loss.name": "ce"}).model_dump()
    values["data"]["mix"] = {"kinds": ["mosaic"], "labels": "union"}
    with pytest.raises(UserError, match=r"data\.mix\.labels"):
        train(single_source, TrainPlan("union", tiny_recipe().model_validate(values), folds=(0,)))
