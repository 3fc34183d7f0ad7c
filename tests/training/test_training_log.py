"""The scores of an epoch, over the classes with positives and negatives in the validation rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cxrlt.training.epoch_end import predict_scores, validate
from cxrlt.training.job import FoldJob
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train, train_fold
from interruptions import crash_in_update
from sampled_cases import sample_cases
from tiny import CLASSES, load_weights, same_weights, tiny_recipe

SHORT = {"schedule.epochs": 2}


def with_table(job: FoldJob, table: pd.DataFrame) -> FoldJob:
    return dataclasses.replace(job, data=dataclasses.replace(job.data, table=table))


def job_of(source, name: str, blank: list[str], *, everywhere: bool = True, **over) -> FoldJob:
    """A fold with blanks instead of the zeros of some classes, in all rows or in those it leaves out."""
    plan = TrainPlan(name, tiny_recipe(**SHORT, **over), folds=(0,))
    (job,) = create_fold_jobs(source, plan)
    table = job.data.table.copy()
    rows = slice(None) if everywhere else job.data.valid_mask
    table.loc[rows, blank] = table.loc[rows, blank].where(table.loc[rows, blank] == 1)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    return with_table(job, table)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_class_with_positives_and_blanks_only_is_not_in_the_mean_of_an_epoch(source, everywhere):
    job = job_of(source, f"no-negatives-{everywhere}", CLASSES[:1], everywhere=everywhere)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    scores, labels = predict_scores(trainer, job.data.valid), job.data.valid[CLASSES]
    assert labels[CLASSES[0]].eq(1).any() and not labels[CLASSES[0]].eq(0).any()
    others = [c for c in (1, 2) if labels[CLASSES[c]].nunique() == 2]
    expected = np.mean([average_precision_score(labels[CLASSES[c]], scores[:, c]) for c in others])
    assert validate(trainer)["oof_mAP"] == pytest.approx(expected)


def test_an_epoch_of_a_refit_says_nothing_of_out_of_fold_scores(source, capsys):
    (job,) = train(source, TrainPlan("refit-quiet", tiny_recipe(**SHORT), refit=True))
    lines = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert [line.partition(":")[0] for line in lines] == ["fold refit epoch 1", "fold refit epoch 2"]
    assert all(", OOF" not in line and "nan" not in line and "images/s" in line for line in lines)
    assert pd.read_csv(job.run_dir / "log.csv")["oof_mAP"].isna().all()


def test_a_fold_in_which_no_class_has_both_values_says_so_once(source, capsys):
    job = job_of(source, "undefined", CLASSES, everywhere=False)
    train_fold(job, create_accelerator(job.recipe))
    first, second = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert "OOF undefined (every class lacks positives or negatives in the validation rows)" in first
    assert "OOF" not in second
    assert "nan" not in first + second


def test_a_metric_that_is_undefined_beside_one_that_is_not_is_named(single_source, capsys):
    job = job_of(single_source, "beside", [], **{"loss.name": "ce"})
    table = job.data.table.copy()
    table.loc[job.data.valid_mask, CLASSES] = (
        1.0,
        0.0,
        0.0,
    )  # one class alone can be told right, but not ranked
    train_fold(with_table(job, table), create_accelerator(job.recipe))
    log = pd.read_csv(job.run_dir / "log.csv")
    assert log["oof_mAP"].isna().all()
    lines = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    for line, score in zip(lines, log["oof_macro-F1"], strict=True):
        assert f"macro-F1 {score:.4f}, mAP undefined, mAUROC undefined" in line


@pytest.mark.parametrize("refit", sample_cases([False, True]))
def test_a_training_without_out_of_fold_scores_goes_on_after_it_was_cut_off(source, refit):
    recipe = tiny_recipe(**SHORT, checkpoint_minutes=1e-9)

    def run(name):
        if refit:
            (job,) = create_fold_jobs(source, TrainPlan(name, recipe, refit=True))
            job.run_dir.mkdir(parents=True, exist_ok=True)
        else:
            job = job_of(source, name, CLASSES, everywhere=False, checkpoint_minutes=1e-9)
        train_fold(job, create_accelerator(job.recipe))
        return job

    whole = run(f"uncut-{refit}")
    with crash_in_update(7 if refit else 5):  # the second epoch's first
        run(f"cut-{refit}")
    assert len(pd.read_csv(whole.run_dir.parents[1] / f"cut-{refit}" / whole.run_dir.name / "log.csv")) == 1
    resumed = run(f"cut-{refit}")
    assert same_weights(load_weights(resumed), load_weights(whole))
    logs = [pd.read_csv(job.run_dir / "log.csv")[["epoch", "loss", "oof_mAP"]] for job in (resumed, whole)]
    pd.testing.assert_frame_equal(*logs)
