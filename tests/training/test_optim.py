import math

import pytest
import torch

from cxrlt.models.backbone import create_model
from cxrlt.recipe import ScheduleConfig
from cxrlt.training.optim import create_ema, create_optimizer, create_scheduler
from tiny import tiny_recipe


def closed_form(update, n, lr, warmup, floor):
    if update < warmup:
        return lr * (update + 1) / (warmup + 1)
    return floor + (lr - floor) * (1 + math.cos(math.pi * (update - warmup) / (n - 1 - warmup))) / 2


@pytest.mark.parametrize("update", [0, 1, 9, 10, 11, 55, 98, 99])
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_the_learning_rate_of_an_update_equals_its_closed_form(update, layer_decay):
    recipe = tiny_recipe(**{"optim.lr": 1e-3, "optim.layer_decay": layer_decay})
    model = create_model(recipe.model, 3, 32)
    optimizer = create_optimizer(model, recipe.optim)
    cfg = ScheduleConfig(warmup_share=0.1, min_lr_share=0.01)
    create_scheduler(optimizer, cfg, n_updates=100).step_update(update)
    expected = closed_form(update, 100, 1e-3, 10, 1e-5)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(expected * group.get("lr_scale", 1.0))


def test_layer_decay_slows_the_first_blocks_and_not_the_head():
    recipe = tiny_recipe(**{"optim.layer_decay": 0.5})
    model = create_model(recipe.model, 3, 32)
    groups = create_optimizer(model, recipe.optim).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scale[id(model.classifier.weight)] == 1
    first = next(p for name, p in model.backbone.named_parameters() if name.startswith("stem"))
    assert scale[id(first)] < 0.5


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("update", [0, 55, 99])
def test_the_backbone_learns_at_its_share_of_the_rate_of_the_head(update, layer_decay):
    fields = {"optim.lr": 1e-3, "optim.layer_decay": layer_decay}
    model = create_model(tiny_recipe().model, 3, 32)

    def rates(share):
        optimizer = create_optimizer(model, tiny_recipe(**fields, **{"optim.backbone_lr_share": share}).optim)
        create_scheduler(optimizer, ScheduleConfig(warmup_share=0.1), n_updates=100).step_update(update)
        return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    whole, shared = rates(1.0), rates(0.1)
    for name, weight in model.named_parameters():
        share = 0.1 if name.startswith("backbone.") else 1
        assert shared[id(weight)] == pytest.approx(whole[id(weight)] * share), name
    assert shared[id(model.head.bias)] == pytest.approx(closed_form(update, 100, 1e-3, 10, 1e-5))


def test_biases_and_norms_have_no_weight_decay():
    recipe = tiny_recipe(**{"optim.weight_decay": 0.1})
    model = create_model(recipe.model, 3, 32)
    decay = {
        id(p): g["weight_decay"]
        for g in create_optimizer(model, recipe.optim).param_groups
        for p in g["params"]
    }
    assert all(decay[id(p)] == (0.1 if p.ndim > 1 else 0) for p in model.parameters())


def test_adam_penalises_every_weight():
    recipe = tiny_recipe(**{"optim.optimizer": "adam", "optim.weight_decay": 5e-4})
    model = create_model(recipe.model, 3, 32)
    optimizer = create_optimizer(model, recipe.optim)
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {5e-4}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_one_step_of_adam_is_that_of_torch():
    recipe = tiny_recipe(**{"optim.optimizer": "adam", "optim.weight_decay": 0.1, "optim.lr": 1e-2})
    models = [create_model(recipe.model, 3, 32) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = create_optimizer(models[0], recipe.optim)
    theirs = torch.optim.Adam(models[1].parameters(), lr=1e-2, weight_decay=0.1)
    for model, optimizer in zip(models, (ours, theirs), strict=True):
        images = torch.arange(1024, dtype=torch.uint8).reshape(1, 1, 32, 32)
        model({"images": images}).square().sum().backward()
        optimizer.step()
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize(
    ("update", "expected"), [(0, 0.5), (1, 1), (59, 1), (60, 0.1), (119, 0.1), (120, 0.01), (199, 1e-3)]
)
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_steps_divide_the_learning_rate_every_so_many_epochs(update, expected, layer_decay):
    recipe = tiny_recipe(**{"optim.lr": 1e-3, "optim.layer_decay": layer_decay})
    optimizer = create_optimizer(create_model(recipe.model, 3, 32), recipe.optim)
    cfg = ScheduleConfig(kind="step", epochs=100, step_epochs=30, step_factor=0.1, warmup_share=0.005)
    create_scheduler(optimizer, cfg, n_updates=200).step_update(update)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(1e-3 * expected * group.get("lr_scale", 1.0))


@pytest.mark.parametrize("n_updates", [20, 750, 100_000])
def test_the_average_forgets_its_start_whatever_the_length_of_the_run(n_updates):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = create_ema(model, share=0.05, n_updates=n_updates)
    torch.nn.init.ones_(model.weight)
    for update in range(1, min(n_updates, 20_000) + 1):
        ema.update(model, step=update)
    assert ema.module.weight.item() > 0.95


def test_the_average_smooths_over_its_horizon():
    ema = create_ema(torch.nn.Linear(1, 1), share=0.05, n_updates=1000)
    assert 1 / (1 - ema.get_decay(1000)) == pytest.approx(50)
    assert create_ema(torch.nn.Linear(1, 1), share=0.0, n_updates=1000).get_decay(500) == 0
