"""An interrupted run continues from its last checkpoint and gives the same result."""

import pandas as pd
import pytest

from cxrlt.training.checkpoint import checkpoint_update, list_checkpoints
from cxrlt.training.train import TrainPlan, train
from interruptions import CrashError, crash_in_update, on_each_forward, raise_crash, stop_in_update
from sampled_cases import sample_cases
from tiny import load_weights, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

COLUMNS = ["epoch", "oof_mAP", "loss", "clipped_share", "lr"]


def logs_of(*jobs) -> list[pd.DataFrame]:
    return [pd.read_csv(job.run_dir / "log.csv")[COLUMNS] for job in jobs]


@pytest.mark.parametrize(
    ("update", "saved"), sample_cases([(6, []), (14, [10]), (17, [16, 10]), (30, [26, 16])])
)
def test_a_run_that_dies_ends_with_the_weights_of_one_left_alone(source, capsys, update, saved):
    """An epoch has 16 updates, of which the 10th and the last are checked and saved."""
    over = {"model.drop_path": 0.2, "model.drop_rate": 0.2, "checkpoint_minutes": 1e-9}
    recipe = tiny_recipe(**over, **{"optim.batch_size": 2, "optim.clip_grad": 2.4})
    (whole,) = train(source, TrainPlan("uninterrupted", recipe, folds=(0,)))
    plan = TrainPlan(f"died-{update}", recipe, folds=(0,))
    with crash_in_update(update):
        train(source, plan)
    kept = list_checkpoints(source.workspace.run_dir("csv", plan.name) / "fold0")
    assert [checkpoint_update(path) for path in kept] == saved
    (resumed,) = train(source, plan)
    assert not saved or f"from update {saved[0]} of 32" in capsys.readouterr().out
    assert same_weights(load_weights(resumed), load_weights(whole))
    died, alone = logs_of(resumed, whole)
    assert alone["clipped_share"].between(0, 1, inclusive="neither").all()
    pd.testing.assert_frame_equal(died, alone, rtol=1e-5)


@pytest.mark.parametrize("update", [1, 3, 4, 5])
def test_a_run_that_is_told_to_stop_goes_on_from_the_update_it_was_in(source, capsys, update):
    recipe = tiny_recipe(**{"model.drop_path": 0.2, "model.drop_rate": 0.2, "optim.clip_grad": 2.4})
    (whole,) = train(source, TrainPlan("left-alone", recipe, folds=(0,)))
    plan = TrainPlan(f"told-to-stop-{update}", recipe, folds=(0,))
    with stop_in_update(update):
        train(source, plan)
    (resumed,) = train(source, plan)
    assert f"from update {update} of 8" in capsys.readouterr().out
    assert same_weights(load_weights(resumed), load_weights(whole))
    pd.testing.assert_frame_equal(*logs_of(resumed, whole), rtol=1e-5)


def test_a_run_that_dies_while_it_validates_loses_no_line_of_its_log(source):
    recipe = tiny_recipe(**{"checkpoint_minutes": 1e-9, "predict.weights": "best"})
    (whole,) = train(source, TrainPlan("validated", recipe, folds=(0,)))
    plan = TrainPlan("dies-validating", recipe, folds=(0,))
    with (
        pytest.raises(CrashError),
        on_each_forward(lambda model, *_: None if model.training else raise_crash()),
    ):
        train(source, plan)
    (resumed,) = train(source, plan)
    assert same_weights(load_weights(resumed), load_weights(whole))
    pd.testing.assert_frame_equal(*logs_of(resumed, whole), rtol=1e-5)
