"""What a checkpoint restores is what was there, in the order in memory in which it was there."""

import copy
import time

import torch
from torch import nn

from cxrlt.models.backbone import create_model
from cxrlt.training.checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from cxrlt.training.epoch_end import save_checkpoint_if_due
from cxrlt.training.optim import create_optimizer
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs
from tiny import tiny_recipe


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    model({"images": images}).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_an_optimiser_goes_on_from_a_checkpoint_as_if_there_had_been_none(tmp_path):
    recipe = tiny_recipe()
    model = create_model(recipe.model, 3, 32)
    optimizer = create_optimizer(model, recipe.optim)
    step(model, optimizer)
    save_checkpoint(tmp_path, model, model, optimizer, Progress(update=1))
    resumed, ema = create_model(recipe.model, 3, 32), copy.deepcopy(model)
    other = create_optimizer(resumed, recipe.optim)
    assert load_checkpoint(tmp_path, resumed, ema, other) == Progress(update=1)
    weights = [weight for group in other.param_groups for weight in group["params"]]
    assert any(not weight.is_contiguous() for weight in weights)
    for weight in weights:
        # the fused kernels take moments and weights for one order in memory, without a look at the strides
        assert other.state[weight]["exp_avg"].stride() == weight.stride()
    for net, its in ((model, optimizer), (resumed, other)):
        step(net, its)
    for key, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_one_is_written_some_time_after_the_last_and_sooner_after_an_epoch(source):
    (job,) = create_fold_jobs(source, TrainPlan("due", tiny_recipe(checkpoint_minutes=1), folds=(0,)))
    job.run_dir.mkdir(parents=True)
    trainer = create_trainer(job, create_accelerator(job.recipe))

    def is_written(*, epoch_is_over: bool, seconds: float | None = None) -> bool:
        """Whether one is, so long after the last; None: right after it."""
        before = list_checkpoints(job.run_dir)
        trainer.progress.update += 1
        if seconds is not None:
            trainer.clock.saved_at = time.monotonic() - seconds
        save_checkpoint_if_due(trainer, epoch_is_over=epoch_is_over)
        return list_checkpoints(job.run_dir) != before

    assert not is_written(seconds=30, epoch_is_over=False)
    assert is_written(seconds=30, epoch_is_over=True)
    assert not is_written(epoch_is_over=True)
    assert is_written(seconds=90, epoch_is_over=False)
    assert not is_written(epoch_is_over=False)
