"""A run that dies goes on from its last checkpoint and ends as if it had been left alone."""

import pandas as pd
import pytest

from cxrlt.training import loop
from cxrlt.training.train import TrainPlan, train
from tiny import same, tiny_recipe, weights_of


class StopError(Exception):
    pass


def stop_at(monkeypatch, update):
    """Let the loop die before it computes `update`, as a kill would."""
    real = loop.update

    def dying(trainer, *args):
        if trainer.progress.update == update:
            raise StopError
        return real(trainer, *args)

    monkeypatch.setattr(loop, "update", dying)


@pytest.mark.parametrize("update", [1, 4, 6])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(source, monkeypatch, update):
    over = {"model.drop_path": 0.2, "model.drop_rate": 0.2, "checkpoint_minutes": 1e-9}
    recipe = tiny_recipe(**over, **{"optim.clip_grad": 2.4})
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    (whole,) = train(source, TrainPlan("uninterrupted", recipe, folds=(0,)))
    plan = TrainPlan(f"stopped-{update}", recipe, folds=(0,))
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_at(patch, update)
        train(source, plan)
    (resumed,) = train(source, plan)
    assert same(weights_of(resumed), weights_of(whole))
    columns = ["epoch", "oof_mAP", "loss", "clipped_share"]
    logs = [pd.read_csv(job.run_dir / "log.csv")[columns] for job in (resumed, whole)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-5)


def test_a_run_that_dies_while_it_validates_loses_no_line_of_its_log(source, monkeypatch):
    recipe = tiny_recipe(**{"checkpoint_minutes": 1e-9, "predict.weights": "best"})
    (whole,) = train(source, TrainPlan("validated", recipe, folds=(0,)))
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)

    def dying(trainer):
        raise StopError

    plan = TrainPlan("dies-validating", recipe, folds=(0,))
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(loop, "validate", dying)
        train(source, plan)
    (resumed,) = train(source, plan)
    assert same(weights_of(resumed), weights_of(whole))
    columns = ["epoch", "loss", "clipped_share", "oof_mAP", "lr"]
    logs = [pd.read_csv(job.run_dir / "log.csv")[columns] for job in (resumed, whole)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-5)
