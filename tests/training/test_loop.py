"""What every update does, noted by PyTorch's own hooks and computed again by hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from cxrlt.artifacts import read_json
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.metrics import macro_metric
from cxrlt.models.backbone import XRayModel
from cxrlt.training.data import evaluation_set, training_set
from cxrlt.training.infer import infer
from cxrlt.training.job import FoldJob
from cxrlt.training.optimise import create_optimizer
from cxrlt.training.setup import create_accelerator, initial_model, loss_of
from cxrlt.training.train import TrainPlan, train
from tiny import tiny_recipe, weights_of

N_UPDATES = 8  # two epochs of four
LR, CLIP = 5e-3, 2.4
EMA_SHARE = 0.5


@dataclass(frozen=True)
class Step:
    """Weights after a step, the gradients it was made with, both in the optimiser's order, and its rate."""

    weights: list[Tensor]
    gradients: list[Tensor]
    lr: float


@contextmanager
def steps_noted() -> Iterator[list[Step]]:
    """Fills the list with every step of any optimiser."""
    steps: list[Step] = []

    def note(optimizer: Optimizer, *_: object) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        steps.append(
            Step(
                [weight.detach().clone() for weight in weights],
                [weight.grad.clone() for weight in weights],
                max(group["lr"] for group in optimizer.param_groups),
            )
        )

    handle = register_optimizer_step_post_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


def weights_in_order(model: XRayModel, job: FoldJob) -> list[Tensor]:
    groups = create_optimizer(model, job.recipe.optim).param_groups
    return [weight for group in groups for weight in group["params"]]


def model_with(job: FoldJob, weights: list[Tensor] | None) -> XRayModel:
    """The fold's model with these weights; None: with its first ones."""
    model = initial_model(job, loss_of(job))
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
    """A fold whose average has a memory, trained in micro-batches of three, three and two."""
    over = {"optim.ema_share": EMA_SHARE, "optim.lr": LR, "optim.clip_grad": CLIP}
    recipe = tiny_recipe(**over, **{"optim.max_batch_per_device": 3})
    with steps_noted() as steps:
        (job,) = train(source, TrainPlan("by-hand", recipe, folds=(0,)))
    assert len(steps) == N_UPDATES
    return job, steps


def test_the_saved_weights_are_the_moving_average_of_those_after_every_step(trained):
    job, steps = trained
    saved = weights_of(job)
    averaged, last = (
        dict(model_with(job, weights).named_parameters())
        for weights in (moving_average(steps), steps[-1].weights)
    )
    for name, value in averaged.items():
        assert torch.allclose(saved[name], value, rtol=0, atol=1e-6), name
        assert not torch.allclose(saved[name], last[name], rtol=0, atol=1e-5), name


def test_the_scores_of_every_epoch_are_those_of_the_averaged_weights(trained):
    job, steps = trained
    dataset = evaluation_set(job.recipe, job.valid, job.classes, job.cache)
    options = {"task": job.task, "batch_size": 16, "n_workers": 0}

    def score(weights: list[Tensor]) -> float:
        accelerator = create_accelerator(job.recipe)
        ids = list(job.valid.index)
        logits = infer(model_with(job, weights), dataset, ids, job.classes, accelerator, **options)
        return macro_metric("mAP", job.targets(job.valid), logits.to_numpy())

    logged = list(pd.read_csv(job.run_dir / "log.csv")["oof_mAP"])
    assert [score(moving_average(steps[:n])) for n in (4, 8)] == pytest.approx(logged)
    assert [score(steps[n - 1].weights) for n in (4, 8)] != pytest.approx(logged, abs=1e-3)


def test_a_soup_is_made_of_the_averaged_weights_of_its_epochs(source):
    over = {"optim.ema_share": EMA_SHARE, "soup": {"kind": "average", "snapshots": 2, "inner_share": 0.25}}
    with steps_noted() as steps:
        (job,) = train(source, TrainPlan("soup-by-hand", tiny_recipe(**over), folds=(0,)))
    per_epoch = len(steps) // 2
    taken = read_json(job.run_dir / "soup.json", made_by="")["taken"]
    averages = [moving_average(steps[: per_epoch * epoch], len(steps)) for epoch in taken]
    means = [torch.stack(parts).mean(0) for parts in zip(*averages, strict=True)]
    saved = weights_of(job)
    for name, value in model_with(job, means).named_parameters():
        assert torch.allclose(saved[name], value, rtol=0, atol=1e-6), name


def test_every_step_takes_the_clipped_gradient_of_the_mean_loss_of_its_whole_batch(trained):
    job, steps = trained
    dataset, loss = training_set(job, job.cache), loss_of(job)
    before = [None, *(step.weights for step in steps)]
    losses, clipped = [], []
    for update, step in enumerate(steps):
        epoch, place = divmod(update, 4)
        batch = epoch_batches(len(dataset), 8, job.seed, epoch)[place]
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
    assert list(log["loss"]) == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-4)
    assert list(log["clipped_share"]) == [np.mean(clipped[:4]), np.mean(clipped[4:])]
    assert 0 < sum(clipped) < N_UPDATES


def test_the_learning_rate_of_every_step_is_that_of_its_place_in_the_whole_run(trained):
    job, steps = trained
    least = 0.01 * LR
    cosine = [(1 + math.cos(math.pi * update / (N_UPDATES - 1))) / 2 for update in range(N_UPDATES)]
    assert [step.lr for step in steps] == pytest.approx([least + (LR - least) * share for share in cosine])
    assert list(pd.read_csv(job.run_dir / "log.csv")["lr"]) == pytest.approx([steps[3].lr, steps[7].lr])


def ldam(**options: object):
    return tiny_recipe(**{"loss.name": "ldam", "loss.options": options, "model.head": "cosine"})


def test_a_loss_with_a_schedule_is_told_every_epoch_as_it_begins(single_source):
    runs = []
    for name, options in (("plain", {}), ("deferred", {"reweight_epoch": 1})):
        with steps_noted() as steps:
            train(single_source, TrainPlan(f"ldam-{name}", ldam(**options), folds=(0,)))
        runs.append([step.weights for step in steps])
    alike = [all(map(torch.equal, *weights)) for weights in zip(*runs, strict=True)]
    assert alike == [True] * 4 + [False] * 4


def dropout_masks(source: ImageSource, name: str, **plan: object) -> list[bytes]:
    """Which features the head's dropout kept in every forward pass of a training."""
    masks: list[bytes] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.Dropout) and module.training and module.p and isinstance(output, Tensor):
            masks.append((output != 0).numpy().tobytes())

    handle = register_module_forward_hook(note)
    try:
        train(source, TrainPlan(name, tiny_recipe(**{"model.drop_rate": 0.5}), folds=(0,), **plan))
    finally:
        handle.remove()
    return masks


def test_every_update_of_every_seed_drops_features_of_its_own(source):
    masks = [dropout_masks(source, f"dropout-{seed}", seed=seed) for seed in (0, 1)]
    assert [len(of_run) for of_run in masks] == [N_UPDATES, N_UPDATES]
    assert len({*masks[0], *masks[1]}) == 2 * N_UPDATES
