"""What every update does, noted by PyTorch's own hooks and computed again by hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer

from cxrlt.artifacts import read_json
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.metrics import macro_metric
from cxrlt.models.backbone import XRayModel
from cxrlt.training.datasets import create_eval_dataset, create_train_dataset
from cxrlt.training.infer import infer
from cxrlt.training.job import FoldJob
from cxrlt.training.optim import create_optimizer
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train, train_fold
from interruptions import on_each_update
from tiny import load_weights, tiny_recipe

BATCH_SIZE, PER_EPOCH = 7, 5  # 32 rows, which make batches of seven and of six
N_UPDATES = 2 * PER_EPOCH
LR, CLIP = 5e-3, 2.4
EMA_SHARE = 0.5


@dataclass(frozen=True)
class Step:
    """Weights after a step, the gradients it was made with, both in the optimiser's order, and its rate."""

    weights: list[Tensor]
    gradients: list[Tensor]
    lr: float


@contextmanager
def recording_steps() -> Iterator[list[Step]]:
    """Yield a list that records every optimiser step."""
    steps: list[Step] = []

    def record_call(_: int, optimizer: Optimizer) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        steps.append(
            Step(
                [weight.detach().clone() for weight in weights],
                [weight.grad.clone() for weight in weights],
                max(group["lr"] for group in optimizer.param_groups),
            )
        )

    with on_each_update(record_call, after=True):
        yield steps


def weights_in_order(model: XRayModel, job: FoldJob) -> list[Tensor]:
    groups = create_optimizer(model, job.recipe.optim).param_groups
    return [weight for group in groups for weight in group["params"]]


def model_with(job: FoldJob, weights: list[Tensor] | None) -> XRayModel:
    """Return the fold's model with these weights, or with its initial weights if None."""
    model = create_initial_model(job, create_fold_loss(job))
    if weights is not None:
        with torch.no_grad():
            for mine, given in zip(weights_in_order(model, job), weights, strict=True):
                mine.copy_(given)
    return model


def moving_average(steps: list[Step], n_updates: int = N_UPDATES) -> list[Tensor]:
    """e_k = d_k e_(k-1) + (1 - d_k) w_k from e_0 = w_0; d_k = 1 - (1 + k)^-.8, at most 1 - 1 / horizon."""
    most = 1 - 1 / (EMA_SHARE * n_updates)
    average = [weight.double() for weight in steps[0].weights]
    for k, step in enumerate(steps[1:], start=1):
        decay = min(1 - (1 + k) ** -0.8, most)
        average = [decay * a + (1 - decay) * w for a, w in zip(average, step.weights, strict=True)]
    return average


@pytest.fixture(scope="module")
def trained(source: ImageSource) -> tuple[FoldJob, list[Step]]:
    """A fold whose average has a memory, trained in micro-batches of at most three."""
    optim = {"ema_share": EMA_SHARE, "lr": LR, "clip_grad": CLIP, "batch_size": BATCH_SIZE}
    optim |= {"max_batch_per_device": 3, "backbone_lr_share": 0.5}
    recipe = tiny_recipe(**{f"optim.{name}": value for name, value in optim.items()})
    with recording_steps() as steps:
        (job,) = train(source, TrainPlan("by-hand", recipe, folds=(0,)))
    assert len(steps) == N_UPDATES
    return job, steps


def test_the_saved_weights_are_the_moving_average_of_those_after_every_step(trained):
    job, steps = trained
    saved = load_weights(job)
    averaged, last = (
        dict(model_with(job, weights).named_parameters())
        for weights in (moving_average(steps), steps[-1].weights)
    )
    for name, value in averaged.items():
        assert torch.allclose(saved[name], value, rtol=0, atol=1e-6), name
        assert not torch.allclose(saved[name], last[name], rtol=0, atol=1e-5), name


def test_the_scores_of_every_epoch_are_those_of_the_averaged_weights(trained):
    job, steps = trained
    dataset = create_eval_dataset(job.recipe, job.data.valid, job.data.classes, job.data.cache)
    options = {"task": job.challenge.task, "batch_size": 16, "n_workers": 0}

    def score(weights: list[Tensor]) -> float:
        accelerator = create_accelerator(job.recipe)
        ids = list(job.data.valid.index)
        logits = infer(model_with(job, weights), dataset, ids, job.data.classes, accelerator, **options)
        return macro_metric("mAP", job.data.targets(job.data.valid), logits.to_numpy())

    logged = list(pd.read_csv(job.run_dir / "log.csv")["oof_mAP"])
    assert [score(moving_average(steps[:n])) for n in (PER_EPOCH, N_UPDATES)] == pytest.approx(logged)
    assert [score(steps[n - 1].weights) for n in (PER_EPOCH, N_UPDATES)] != pytest.approx(logged, abs=1e-3)


@pytest.mark.parametrize("scored", [True, False])
def test_a_soup_is_made_of_the_averaged_weights_of_the_epochs_that_were_taken(source, scored):
    over = {
        "optim.ema_share": EMA_SHARE,
        "soup": {"kind": "average", "snapshots": 2},
        "data.holdout_share": 0.25,
    }
    (job,) = create_fold_jobs(source, TrainPlan(f"soup-{scored}", tiny_recipe(**over), folds=(0,)))
    if not scored:  # then the last epoch stays
        table = job.data.table.copy()
        table.loc[job.data.holdout_mask, list(job.data.classes)] = np.nan
        job = replace(job, data=replace(job.data, table=table))
    job.run_dir.mkdir(parents=True)
    with recording_steps() as steps:
        train_fold(job, create_accelerator(job.recipe))
    per_epoch = len(steps) // 2
    taken = read_json(job.run_dir / "soup.json", made_by="")["taken"]
    assert taken in ([[2], [1, 2]] if scored else [[2]])
    averages = [moving_average(steps[: per_epoch * epoch], len(steps)) for epoch in taken]
    means = [torch.stack(parts).mean(0) for parts in zip(*averages, strict=True)]
    saved = load_weights(job)
    for name, value in model_with(job, means).named_parameters():
        assert torch.allclose(saved[name], value, rtol=0, atol=1e-6), name


def test_every_step_takes_the_clipped_gradient_of_the_mean_loss_of_its_whole_batch(trained):
    job, steps = trained
    dataset, loss = create_train_dataset(job, job.data.cache), create_fold_loss(job)
    before = [None, *(step.weights for step in steps)]
    losses, clipped = [], []
    for update, step in enumerate(steps):
        epoch, place = divmod(update, PER_EPOCH)
        batch = epoch_batches(len(dataset), BATCH_SIZE, job.run.seed, epoch)[place]
        items = [dataset[epoch, draw] for draw in batch.tolist()]
        model = model_with(job, before[update]).train()
        images = torch.stack([inputs["images"] for inputs, _, _ in items])
        value = loss(model({"images": images}), torch.stack([labels for _, labels, _ in items]))
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for found, weight in zip(step.gradients, weights_in_order(model, job), strict=True):
            assert torch.allclose(found, weight.grad, rtol=1e-3, atol=1e-4), update
        losses.append(value.item())
        clipped.append(norm.item() > CLIP)
    log = pd.read_csv(job.run_dir / "log.csv")
    by_epoch = [np.reshape(values, (2, PER_EPOCH)).mean(1) for values in (losses, clipped)]
    assert list(log["loss"]) == pytest.approx(list(by_epoch[0]), rel=1e-4)
    assert list(log["clipped_share"]) == pytest.approx(list(by_epoch[1]))
    assert 0 < sum(clipped) < N_UPDATES


def test_the_learning_rate_of_every_step_is_that_of_its_place_in_the_whole_run(trained):
    job, steps = trained
    least = 0.01 * LR
    cosine = [(1 + math.cos(math.pi * update / (N_UPDATES - 1))) / 2 for update in range(N_UPDATES)]
    assert [step.lr for step in steps] == pytest.approx([least + (LR - least) * share for share in cosine])
    assert list(pd.read_csv(job.run_dir / "log.csv")["lr"]) == pytest.approx(
        [step.lr for step in steps[4::5]]
    )


def ldam(**options: object):
    return tiny_recipe(**{"loss.name": "ldam", "loss.options": options, "model.head.name": "cosine"})


def test_a_loss_with_a_schedule_is_told_every_epoch_as_it_begins(single_source):
    runs = []
    for name, options in (("plain", {}), ("deferred", {"reweight_epoch": 1})):
        with recording_steps() as steps:
            train(single_source, TrainPlan(f"ldam-{name}", ldam(**options), folds=(0,)))
        runs.append([step.weights for step in steps])
    alike = [all(map(torch.equal, *weights)) for weights in zip(*runs, strict=True)]
    assert alike == [True] * 4 + [False] * 4


def dropout_masks(source: ImageSource, plan: TrainPlan) -> list[bytes]:
    """Which features the head's dropout kept in every forward pass of a training."""
    masks: list[bytes] = []

    def record_call(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.Dropout) and module.training and module.p and isinstance(output, Tensor):
            masks.append((output != 0).numpy().tobytes())

    handle = register_module_forward_hook(record_call)
    try:
        train(source, plan)
    finally:
        handle.remove()
    return masks


@pytest.mark.parametrize("frozen", [False, True])
def test_every_update_of_every_seed_drops_features_of_its_own(source, frozen):
    recipe = tiny_recipe(**{"model.drop_rate": 0.5, "model.frozen": frozen})
    plans = [TrainPlan(f"drops-{frozen}-{seed}", recipe, folds=(0,), seed=seed) for seed in (0, 1)]
    masks = [dropout_masks(source, plan) for plan in plans]
    assert [len(of_run) for of_run in masks] == [8, 8]
    assert len({*masks[0], *masks[1]}) == 16
