"""What a run reads: one stream from its next update to its last."""

import multiprocessing

import numpy as np
import pytest
import torch

from cxrlt.inputs.dataset import LabelledDataset
from cxrlt.recipe import FusionConfig
from cxrlt.training.batches import Batch, batch_stream, epoch_draws, halve_micro_batch
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import on_each_update
from tiny import tiny_recipe

pytestmark = pytest.mark.slow


def trainer_of(source, name: str, **over: object) -> Trainer:
    (job,) = create_fold_jobs(source, TrainPlan(name, tiny_recipe(**over), folds=(0,)))
    job.run_dir.mkdir(parents=True, exist_ok=True)
    return create_trainer(job, create_accelerator(job.recipe))


def children() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("update", [0, 1, 6])
def test_a_run_reads_on_from_its_next_update_through_all_its_epochs(source, update, n_workers):
    trainer = trainer_of(source, "stream", **{"data.n_workers": n_workers, "schedule.epochs": 3})
    expected = [(epoch, draws) for epoch in range(3) for draws in epoch_draws(trainer, epoch)]
    assert len(expected) == 12
    trainer.progress.update = update
    found = []
    for batch in batch_stream(trainer):
        found.append((batch.epoch, batch.update, batch.draws.tolist()))
        ((inputs, labels),) = batch.micro_batches()
        items = [trainer.dataset[batch.epoch, draw] for draw in batch.draws.tolist()]
        assert torch.equal(inputs["images"], torch.stack([item[0]["images"] for item in items]))
        assert torch.equal(labels, torch.stack([item[1] for item in items]))
    wanted = [(epoch, number, draws.tolist()) for number, (epoch, draws) in enumerate(expected)]
    assert found == wanted[update:]


def labels_of(batch: Batch) -> list[torch.Tensor]:
    return [labels for _, labels in batch.micro_batches()]


def test_micro_batches_that_nobody_reads_never_pass_for_those_of_the_next_batch(source):
    trainer = trainer_of(source, "unread", **{"optim.max_batch_per_device": 3})
    stream = batch_stream(trainer)
    next(next(stream).micro_batches())  # one of three
    next(stream)  # none of them
    batch = next(stream)
    assert torch.equal(torch.cat(labels_of(batch)), trainer.dataset.targets_of(batch.epoch, batch.draws))
    assert labels_of(batch) == []  # they are gone


def test_a_batch_that_was_too_large_comes_again_in_smaller_micro_batches(source):
    trainer = trainer_of(source, "halved")
    stream = batch_stream(trainer)
    first = next(stream)
    trainer.progress.update += 1
    second = next(stream)
    halve_micro_batch(trainer, second)
    again = next(stream)
    assert (first.update, second.update, again.update) == (0, 1, 1)
    assert np.array_equal(again.draws, second.draws)
    assert [len(labels) for labels in labels_of(again)] == [4, 4]
    trainer.progress.update += 1
    assert [len(labels) for labels in labels_of(next(stream))] == [4, 4]


def test_the_processes_that_read_start_once_for_all_epochs(source):
    trainer = trainer_of(source, "processes", **{"data.n_workers": 2})
    stream, others = batch_stream(trainer), children()
    seen = []
    for _ in range(2):
        for _ in range(trainer.updates_per_epoch):
            list(next(stream).micro_batches())
        seen.append(children() - others)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2


def test_the_processes_of_a_loader_end_when_smaller_micro_batches_take_its_place(source):
    over = {"data.n_workers": 2, "optim.batch_size": 16, "optim.max_batch_per_device": 2}
    trainer, others = trainer_of(source, "ending", **over), children()
    stream = batch_stream(trainer)
    batch = next(stream)
    next(batch.micro_batches())
    former = children() - others
    halve_micro_batch(trainer, batch)
    batch = next(stream)
    next(batch.micro_batches())
    assert not former & children()
    assert len(children() - others) == 2
    stream.close()
    del batch
    assert children() <= others


def test_labels_are_not_made_twice_where_one_pass_holds_the_whole_batch(source, monkeypatch):
    def unwanted(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(LabelledDataset, "targets_of", unwanted)
    (job,) = train(source, TrainPlan("one-pass", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    assert job.is_finished


@pytest.mark.parametrize("over", [{}, {"model.fusion": FusionConfig(max_images=2, n_heads=2, dim=16)}])
def test_every_seed_has_its_own_order_of_rows_and_its_own_augmentation(source, over):
    trainers = []
    for seed in (0, 1):
        (job,) = create_fold_jobs(source, TrainPlan("seeds", tiny_recipe(**over), folds=(0,), seed=seed))
        trainers.append(create_trainer(job, create_accelerator(job.recipe)))
    orders = [np.concatenate(epoch_draws(trainer, 0)) for trainer in trainers]
    assert not np.array_equal(*orders)
    assert np.array_equal(*map(np.sort, orders))
    images = [trainer.dataset[0, 5][0]["images"] for trainer in trainers]
    assert not torch.equal(*images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU is waited for")
@pytest.mark.parametrize("per_pass", [8, 3])
def test_an_update_never_waits_for_the_gpu(source, per_pass):
    recipe = tiny_recipe(**{"schedule.epochs": 1, "optim.max_batch_per_device": per_pass})

    def forbid(
        number, _
    ):  # from within one update to within the next; what is made once is made in the first
        torch.cuda.set_sync_debug_mode("error" if number == 2 else "default")

    try:
        with on_each_update(forbid):
            train(source, TrainPlan(f"unwaiting-{per_pass}", recipe, folds=(0,)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
