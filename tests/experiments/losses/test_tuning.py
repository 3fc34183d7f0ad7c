import math

import pandas as pd
import pytest

from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.experiments.tuning import last_oof_score, tune
from cxrlt.experiments.variants import OptimSettings
from cxrlt.experiments.waves import train_wave

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(source, make_losses_plan) -> LossExperiment:
    return LossExperiment(source, make_losses_plan(name="tuned", losses=("bce",), rates=(0.5, 1.0, 2.0)))


def set_oof_scores(experiment: LossExperiment, scores: dict[float, float]) -> None:
    """Set the last OOF scores of the tuning runs, by (learning rate, clipping)."""
    (variant,) = experiment.variants
    for (lr, clip), score in scores.items():
        directory = experiment.fold_dir(experiment.candidate_run(variant, OptimSettings(lr, clip)), 0)
        log = pd.read_csv(directory / "log.csv")
        log.loc[len(log) - 1, "oof_mAP"] = score
        log.to_csv(directory / "log.csv", index=False)


def test_the_rate_is_chosen_with_clipping_and_then_tried_without(experiment):
    tune(experiment)
    set_oof_scores(experiment, {(1e-3, 1.0): 0.9, (2e-3, 1.0): 0.2, (4e-3, 1.0): 0.1})
    tuned, failures = tune(experiment)
    assert tuned["bce"].lr == 1e-3
    assert tuned["bce"].edge == "lowest"
    set_oof_scores(experiment, {(1e-3, None): 0.95})
    assert tune(experiment)[0]["bce"].clip_grad is None
    set_oof_scores(experiment, {(1e-3, None): 0.85})
    assert tune(experiment)[0]["bce"].clip_grad == 1.0
    set_oof_scores(experiment, {(2e-3, 1.0): 0.99})
    again = tune(experiment)[0]["bce"]
    assert (again.lr, again.edge) == (2e-3, "")
    assert not failures


def test_a_setting_with_infinite_loss_is_not_a_failure(source, make_losses_plan):
    experiment = LossExperiment(source, make_losses_plan(name="diverges", losses=("bce",), rates=(1.0, 1e30)))
    tuned, failures = tune(experiment)
    assert not failures
    assert tuned["bce"].lr == 2e-3
    assert [math.isnan(trial.score) for trial in tuned["bce"].trials] == [False, True, False]


def test_the_score_is_the_last_epochs(experiment):
    run = experiment.candidate_run(experiment.reference, OptimSettings(5e-3, 1.0))
    assert math.isnan(last_oof_score(experiment, run, 0))
    train_wave(experiment, "train", [run], (0,))
    log = pd.read_csv(experiment.fold_dir(run, 0) / "log.csv")
    assert last_oof_score(experiment, run, 0) == log["oof_mAP"].iloc[-1]
