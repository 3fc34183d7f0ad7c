"""A run whose numbers are none stops, says where, and leaves nothing that was made of them."""

import math
import re

import pytest
import torch
from torch import nn

from cxrlt.errors import UserError, listing
from cxrlt.training import loop, setup
from cxrlt.training.batches import batches_of
from cxrlt.training.checkpoint import checkpoints, update_of
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, fold_jobs, train
from tiny import tiny_recipe

FIELDS = {"schedule.epochs": 3, "checkpoint_minutes": 1e-9}


class Poison(torch.autograd.Function):
    """The loss as it is, with a gradient that is none."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def spoil(monkeypatch, update: int, what: str) -> None:
    """Let the loss or the gradient of an update (from 0) be no number, or the weights after it."""
    real, updates = loop.accumulate, []

    def spoilt(trainer, *args):
        updates.append(trainer.progress.update)
        if trainer.progress.update != update:
            return real(trainer, *args)
        sums = trainer.loss.sums
        with pytest.MonkeyPatch.context() as patch:
            if what == "loss":
                patch.setattr(trainer.loss, "sums", lambda *given: sums(*given) * math.nan)
            if what == "gradient":
                patch.setattr(trainer.loss, "sums", lambda *given: Poison.apply(sums(*given)))
            found = real(trainer, *args)
        if what == "weights":
            next(trainer.bare.parameters()).data[0] = math.inf
        return found

    monkeypatch.setattr(loop, "accumulate", spoilt)


def images_of(source, plan, update: int) -> list[str]:
    (job,) = fold_jobs(source, plan)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    epoch, place = divmod(update, 4)
    rows = batches_of(trainer, epoch)[place] % len(trainer.dataset)
    return [str(trainer.dataset.ids[row]) for row in sorted(rows)]


@pytest.mark.parametrize("clip_grad", [None, 1.0])
@pytest.mark.parametrize(
    ("what", "update", "said"),
    [
        ("loss", 0, "the loss is nan and the norm of the gradient is nan"),
        ("loss", 6, "the loss is nan and the norm of the gradient is nan"),
        ("gradient", 6, "the norm of the gradient is (inf|nan)"),
        ("gradient", 11, "the norm of the gradient is (inf|nan)"),
        ("weights", 7, "the norm of the weights is (inf|nan)"),
    ],
)
def test_what_is_no_number_is_named_with_all_that_may_explain_it(
    source, monkeypatch, what, update, said, clip_grad
):
    name = f"bad-{what}-{update}-{clip_grad}"
    plan = TrainPlan(name, tiny_recipe(**FIELDS, **{"optim.clip_grad": clip_grad}), folds=(0,))
    spoil(monkeypatch, update, what)
    with pytest.raises(UserError) as error:
        train(source, plan)
    sentence = str(error.value)
    run_dir = source.workspace.run_dir("csv", name) / "fold0"
    where = rf"^{run_dir}: {said} at update {update + 1} \(epoch {update // 4 + 1}\), with learning rate "
    assert re.search(where, sentence), sentence
    images = images_of(source, plan, update)
    assert len(images) == 8
    assert f"on the images {listing(images)}. " in sentence
    assert "--optim.lr" in sentence and "--optim.clip-grad" in sentence and "--force" in sentence
    good = update // 4 * 4
    kept = [update_of(path) for path in checkpoints(run_dir)]
    assert kept == [at for at in (good, good - 4) if at > 0]
    if good:
        assert f"The last good checkpoint is of update {good}: {checkpoints(run_dir)[0]}." in sentence
    else:
        assert "No checkpoint is from before that." in sentence


def test_the_learning_rate_is_that_of_the_update(source, monkeypatch):
    plan = TrainPlan("bad-rate", tiny_recipe(**FIELDS), folds=(0,))
    rates = []
    real = setup.create_scheduler

    def noting(optimizer, *args):
        scheduler = real(optimizer, *args)
        step = scheduler.step_update
        scheduler.step_update = lambda number: (step(number), rates.append(optimizer.param_groups[0]["lr"]))
        return scheduler

    monkeypatch.setattr(setup, "create_scheduler", noting)
    spoil(monkeypatch, 5, "loss")
    with pytest.raises(UserError) as error:
        train(source, plan)
    told = re.search(r"learning rate (\S+) on", str(error.value))
    assert told is not None
    assert told[1] == f"{rates[-1]:.3g}"
    assert rates[-1] != rates[-2]


@pytest.mark.parametrize("update", [3, 7])
def test_nothing_is_made_of_a_bad_update(source, monkeypatch, update):
    soup = {"kind": "average", "snapshots": 2, "inner_share": 0.25}
    kinds = {"best": {"predict.weights": "best"}, "souped": {"soup": soup}}
    for kind, over in kinds.items():
        name = f"{kind}-{update}"
        plan = TrainPlan(name, tiny_recipe(**{**FIELDS, "schedule.epochs": 2}, **over), folds=(0,))
        with monkeypatch.context() as patch:
            n_updates = 6 if kind == "souped" else 8
            spoil(patch, n_updates * (update + 1) // 8 - 1, "gradient")
            with pytest.raises(UserError, match="gradient"):
                train(source, plan)
        run_dir = source.workspace.run_dir("csv", name) / "fold0"
        first = update == 3
        assert (run_dir / "log.csv").is_file() != first
        assert (run_dir / "best.safetensors").is_file() == (kind == "best" and not first)
        assert len(list(run_dir.glob("snapshot-*"))) == (kind == "souped" and not first)
        assert not (run_dir / "weights.safetensors").exists()
        (job,) = train(source, plan)  # it was nothing but our doing
        assert job.finished


def test_updates_are_looked_at_together(source, monkeypatch):
    looks = []
    real = loop.take_stock

    def noting(trainer, pending):
        looks.append((trainer.progress.update, len(pending)))
        return real(trainer, pending)

    monkeypatch.setattr(loop, "take_stock", noting)
    monkeypatch.setattr(loop, "CHECK_EVERY", 3)
    train(source, TrainPlan("looks", tiny_recipe(), folds=(0,)))
    assert looks == [(3, 3), (4, 1), (7, 3), (8, 1)]


def test_a_loss_and_a_norm_are_those_of_the_update(source, monkeypatch):
    seen = []
    real = loop.take_stock
    monkeypatch.setattr(
        loop, "take_stock", lambda trainer, pending: seen.extend(pending) or real(trainer, pending)
    )
    norms = []
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        nn.utils, "clip_grad_norm_", lambda *args: norms.append(clip(*args).item()) or torch.tensor(norms[-1])
    )
    train(source, TrainPlan("clipped", tiny_recipe(**{"optim.clip_grad": 1e9}), folds=(0,)))
    clipped = torch.stack(seen)
    seen.clear()
    train(source, TrainPlan("free", tiny_recipe(**{"optim.clip_grad": None}), folds=(0,)))
    assert torch.equal(torch.stack(seen), clipped)
    assert clipped[:, 1].tolist() == norms
