"""What a run reads: one stream from its next update to its last."""

import multiprocessing

import numpy as np
import pytest
import torch

from cxrlt.inputs.dataset import LabelledRows
from cxrlt.recipe import FusionConfig
from cxrlt.training.batches import batches_of, load
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, fold_jobs, train
from interrupting import each_update
from tiny import tiny_recipe

pytestmark = pytest.mark.slow


def trainer_of(source, name: str, **over: object) -> Trainer:
    (job,) = fold_jobs(source, TrainPlan(name, tiny_recipe(**over), folds=(0,)))
    job.run_dir.mkdir(parents=True, exist_ok=True)
    return create_trainer(job, create_accelerator(job.recipe))


def children() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("update", [0, 1, 6])
def test_a_run_reads_on_from_its_next_update_through_all_its_epochs(source, update, n_workers):
    trainer = trainer_of(source, "stream", **{"data.n_workers": n_workers, "schedule.epochs": 3})
    batches = [(epoch, batch) for epoch in range(3) for batch in batches_of(trainer, epoch)]
    assert len(batches) == 12
    trainer.progress.update = update
    loaded = list(load(trainer))
    assert len(loaded) == 12 - update
    for (epoch, batch), (inputs, labels) in zip(batches[update:], loaded, strict=True):
        items = [trainer.dataset[epoch, draw] for draw in batch.tolist()]
        assert torch.equal(inputs["images"], torch.stack([item[0]["images"] for item in items]))
        assert torch.equal(labels, torch.stack([item[1] for item in items]))


def test_the_processes_that_read_start_once_for_all_epochs(source):
    trainer = trainer_of(source, "processes", **{"data.n_workers": 2})
    stream, others = load(trainer), children()
    seen = []
    for _ in range(2):
        for _ in batches_of(trainer, 0):
            next(stream)
        seen.append(children() - others)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2


def test_labels_are_not_made_twice_where_one_pass_holds_the_whole_batch(source, monkeypatch):
    def unwanted(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(LabelledRows, "targets_of", unwanted)
    (job,) = train(source, TrainPlan("one-pass", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    assert job.finished


@pytest.mark.parametrize("over", [{}, {"model.fusion": FusionConfig(max_images=2, n_heads=2, dim=16)}])
def test_every_seed_has_its_own_order_of_rows_and_its_own_augmentation(source, over):
    trainers = []
    for seed in (0, 1):
        (job,) = fold_jobs(source, TrainPlan("seeds", tiny_recipe(**over), folds=(0,), seed=seed))
        trainers.append(create_trainer(job, create_accelerator(job.recipe)))
    orders = [np.concatenate(batches_of(trainer, 0)) for trainer in trainers]
    assert not np.array_equal(*orders)
    assert np.array_equal(*map(np.sort, orders))
    images = [trainer.dataset[0, 5][0]["images"] for trainer in trainers]
    assert not torch.equal(*images)


def test_what_is_left_of_an_epoch_are_its_last_batches(source):
    trainer = trainer_of(source, "left")
    whole, rest = batches_of(trainer, 1), batches_of(trainer, 1, 3)
    assert len(rest) == len(whole) - 3
    assert all(np.array_equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU is waited for")
@pytest.mark.parametrize("per_pass", [8, 3])
def test_an_update_never_waits_for_the_gpu(source, per_pass):
    recipe = tiny_recipe(**{"schedule.epochs": 1, "optim.max_batch_per_device": per_pass})

    def forbid(
        number, _
    ):  # from within one update to within the next; what is made once is made in the first
        torch.cuda.set_sync_debug_mode("error" if number == 2 else "default")

    try:
        with each_update(forbid):
            train(source, TrainPlan(f"unwaiting-{per_pass}", recipe, folds=(0,)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
