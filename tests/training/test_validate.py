"""The scores of an epoch: of the classes that have both values among the rows that the fold leaves out."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cxrlt.training.job import FoldJob
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, fold_jobs
from cxrlt.training.validate import scores_on, validate
from tiny import CLASSES, tiny_recipe

SHORT = {"schedule.epochs": 2}


def job_of(source, name: str, blank: list[str], *, everywhere: bool = True, **over) -> FoldJob:
    """A fold with blanks instead of the zeros of some classes, in all rows or in those it leaves out."""
    plan = TrainPlan(name, tiny_recipe(**SHORT, **over), folds=(0,))
    (job,) = fold_jobs(source, plan)
    table = job.table.copy()
    rows = slice(None) if everywhere else job.left_out
    table.loc[rows, blank] = table.loc[rows, blank].where(table.loc[rows, blank] == 1)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(job, table=table)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_class_with_positives_and_blanks_only_is_not_in_the_mean_of_an_epoch(source, everywhere):
    job = job_of(source, f"no-negatives-{everywhere}", CLASSES[:1], everywhere=everywhere)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    scores, labels = scores_on(trainer, job.valid), job.valid[CLASSES]
    assert labels[CLASSES[0]].eq(1).any() and not labels[CLASSES[0]].eq(0).any()
    others = [c for c in (1, 2) if labels[CLASSES[c]].nunique() == 2]
    expected = np.mean([average_precision_score(labels[CLASSES[c]], scores[:, c]) for c in others])
    assert validate(trainer)["oof_mAP"] == pytest.approx(expected)
