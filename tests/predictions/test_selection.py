import numpy as np
import pytest

from cxrlt.metrics import average_precision, macro, macro_metric
from cxrlt.predictions.selection import greedy_weights


def members(*skills: float, n_rows: int = 600, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, 2)) < 0.2).astype(np.float64)
    return [(s * targets + rng.normal(size=targets.shape)).T.astype(np.float32) for s in skills], targets


def map_of(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(macro(average_precision(targets, scores.T)))


def test_weights_sum_to_1_and_are_at_least_as_good_as_the_best_member_and_the_plain_mean() -> None:
    scores, targets = members(1.0, 1.5, 0.5)
    weights = greedy_weights(scores, targets, "mAP")
    assert weights.sum() == pytest.approx(1)
    reached = map_of(np.tensordot(weights, np.array(scores), axes=1), targets)
    assert reached >= max(map_of(member, targets) for member in scores)
    assert reached >= map_of(np.mean(scores, axis=0), targets) - 1e-3


def test_a_member_that_only_hurts_gets_no_weight() -> None:
    scores, targets = members(2.0, 0.0)
    assert greedy_weights([scores[0], scores[1] * 5], targets, "mAP").tolist() == [1, 0]


def test_members_that_are_alike_leave_the_smallest_ensemble() -> None:
    scores, targets = members(1.0)
    assert greedy_weights([scores[0], scores[0].copy()], targets, "mAP").tolist() == [1, 0]


def test_one_member_is_an_ensemble_too() -> None:
    scores, targets = members(1.0)
    assert greedy_weights(scores, targets, "mAP").tolist() == [1]


def test_labels_that_are_not_annotated_take_no_part() -> None:
    scores, targets = members(1.0, 1.0)
    misleading = targets.copy()
    misleading[:300] = np.nan
    spoilt = [scores[0].copy(), scores[1]]
    spoilt[0][:, :300] = -100 * targets[:300].T
    assert greedy_weights(spoilt, misleading, "mAP")[0] > 0.2
    assert greedy_weights(spoilt, targets, "mAP")[0] == 0


def test_the_challenges_metric_is_what_is_climbed() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros((400, 1))
    targets[:40] = 1
    sure_of_few = np.where(np.arange(400) < 10, 10, np.where(targets[:, 0] == 1, -3, 0))
    fair_to_all = targets[:, 0] + rng.normal(size=400)
    scores = [member[None].astype(np.float32) for member in (sure_of_few, fair_to_all)]
    reached = {}
    for climbed in ("mAP", "mAUROC"):
        weights = greedy_weights(scores, targets, climbed)
        mixed = np.tensordot(weights, np.array(scores), axes=1)
        reached[climbed] = {m: macro_metric(m, targets, mixed.T) for m in ("mAP", "mAUROC")}
    assert reached["mAP"]["mAP"] > reached["mAUROC"]["mAP"]
    assert reached["mAUROC"]["mAUROC"] > reached["mAP"]["mAUROC"]
