"""Which of a fold's training rows judge a soup."""

from cxrlt.training.soup_holdout import inner_rows
from cxrlt.training.train import TrainPlan, fold_jobs
from tiny import tiny_recipe


def test_which_rows_judge_depends_on_seed_and_fold_alone(source):
    (job,) = fold_jobs(source, TrainPlan("asked", tiny_recipe(), folds=(0,)))
    rows = job.train

    def chosen(seed=0, fold="0", share=0.25):
        return set(inner_rows(rows, job.classes, share, seed, fold))

    assert chosen() == chosen()
    assert len({frozenset(chosen(seed, fold)) for seed in range(2) for fold in "01"}) == 4
    assert 0 < len(chosen(share=0.01)) < len(chosen(share=0.5))


def test_a_finding_of_one_patient_stays_with_the_rows_trained_on(source):
    (job,) = fold_jobs(source, TrainPlan("rare", tiny_recipe(), folds=(0,)))
    rows = job.train
    for patient in rows["patient"].unique():
        rare = rows.assign(Rare=(rows["patient"] == patient).astype(float))
        assert patient not in set(rare.loc[inner_rows(rare, ("Rare",), 0.1, 0, "0"), "patient"])
