"""data.long_tail: exponential class counts of the training rows; all other rows stay."""

import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_predictions
from cxrlt.training.long_tail import long_tail_counts, rows_left_out
from cxrlt.training.setup import create_fold_loss
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import crash_in_update
from tiny import CLASSES, load_weights, same_weights, tiny_recipe

RATIO = {"loss.name": "ldam", "data.long_tail": 100.0}


@pytest.mark.parametrize(
    ("counts", "ratio", "kept"),
    [
        # long-tailed CIFAR-10 of Cui et al. (2019): 5,000 images per class, ratio 100
        ([5000] * 10, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        ([10, 1000, 500], 100, [10, 1000, 100]),
        ([2900, 2900], 100, [2900, 29]),  # 29 exactly, not 28.999…
        ([50, 1000, 60], 10, [50, 1000, 60]),  # never more than the class has
        ([100, 0, 100], 4, [100, 0, 25]),  # a class without images does not count
        ([30, 30, 30], 1000, [30, 1, 1]),  # never none
        ([7], 10, [7]),
        ([0, 0], 10, [0, 0]),
    ],
)
def test_the_counts_fall_exponentially_from_the_first_class_to_the_last(
    counts: list[int], ratio: float, kept: list[int]
) -> None:
    assert long_tail_counts(counts, ratio) == kept


def test_the_rows_left_out_depend_on_the_seed_only() -> None:
    targets = np.eye(3)[np.random.default_rng(0).integers(0, 3, 300)]
    targets[:5] = np.nan
    left_out = rows_left_out(targets, 10, seed=1)
    assert np.array_equal(left_out, rows_left_out(targets, 10, seed=1))
    assert not np.array_equal(left_out, rows_left_out(targets, 10, seed=2))
    assert not left_out[:5].any()
    counts = (targets == 1).sum(axis=0).tolist()
    assert (targets[~left_out] == 1).sum(axis=0).tolist() == long_tail_counts(counts, 10)


@pytest.mark.slow
def test_only_training_rows_are_reduced_and_losses_get_their_counts(single_source) -> None:
    def jobs(**over):
        recipe = tiny_recipe(**{"loss.name": "ldam", **over})
        return create_fold_jobs(single_source, TrainPlan("counts", recipe))

    seen = set()
    for whole, reduced in zip(jobs(), jobs(**{"data.long_tail": 100.0}), strict=True):
        counts = whole.data.class_counts
        expected = dict(zip(counts, long_tail_counts(list(counts.values()), 100.0), strict=True))
        assert reduced.data.class_counts == expected != counts
        assert len(reduced.data.train) == sum(expected.values())
        assert reduced.data.train.index.isin(whole.data.train.index).all()
        pd.testing.assert_frame_equal(reduced.data.valid, whole.data.valid)
        margins = [create_fold_loss(job).margin for job in (whole, reduced)]
        assert not margins[0].equal(margins[1])
        seen.add(tuple(reduced.data.train.index))
    assert len(seen) == 3
    with_soup = jobs(**{"data.long_tail": 100.0, "soup.kind": "average", "data.holdout_share": 0.25})[0]
    soup = jobs(**{"soup.kind": "average", "data.holdout_share": 0.25})[0]
    pd.testing.assert_frame_equal(with_soup.data.holdout, soup.data.holdout)


@pytest.mark.slow
def test_all_rows_are_predicted_out_of_fold_and_a_resumed_run_is_the_same(single_source, capsys) -> None:
    recipe = tiny_recipe(**RATIO, **{"schedule.epochs": 1, "checkpoint_minutes": 1e-9})
    (whole,) = train(single_source, TrainPlan("long-tail", recipe, folds=(0,)))
    counts = sorted(whole.data.class_counts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count}" for name, count in counts)
    n_train = int((~whole.data.valid_mask).sum())
    line = f"fold 0: data.long_tail 100: {sum(dict(counts).values())} of {n_train} training rows: {shown}"
    assert line in capsys.readouterr().out
    plan = TrainPlan("long-tail-died", recipe, folds=(0,))
    with crash_in_update(2):
        train(single_source, plan)
    (resumed,) = train(single_source, plan)
    assert same_weights(load_weights(resumed), load_weights(whole))
    (path,) = predict(single_source, "long-tail", "oof")
    assert set(read_predictions(path, CLASSES)[0].index) == set(whole.data.valid.index)
    with pytest.raises(UserError, match=r"data\.long_tail"):
        train(single_source, TrainPlan("long-tail", tiny_recipe(**{"loss.name": "ldam"}), folds=(0,)))


@pytest.mark.slow
def test_a_multi_label_task_is_refused(source) -> None:
    with pytest.raises(UserError, match=r"data\.long_tail needs exactly one class per image.*remove"):
        create_fold_jobs(source, TrainPlan("tail", tiny_recipe(**{"data.long_tail": 10.0})))
