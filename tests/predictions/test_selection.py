import numpy as np
import pytest

from cxrlt.metrics import average_precision, macro
from cxrlt.predictions.selection import greedy_weights


def members(*skills: float, n_rows: int = 600, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, 2)) < 0.2).astype(np.float64)
    return [(s * targets + rng.normal(size=targets.shape)).T.astype(np.float32) for s in skills], targets


def map_of(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(macro(average_precision(targets, scores.T)))


def test_weights_sum_to_1_and_are_at_least_as_good_as_the_best_member_and_the_plain_mean() -> None:
    scores, targets = members(1.0, 1.5, 0.5)
    weights = greedy_weights(scores, targets)
    assert weights.sum() == pytest.approx(1)
    reached = map_of(np.tensordot(weights, np.array(scores), axes=1), targets)
    assert reached >= max(map_of(member, targets) for member in scores)
    assert reached >= map_of(np.mean(scores, axis=0), targets) - 1e-3


def test_a_member_that_only_hurts_gets_no_weight() -> None:
    scores, targets = members(2.0, 0.0)
    assert greedy_weights([scores[0], scores[1] * 5], targets).tolist() == [1, 0]


def test_members_that_are_alike_leave_the_smallest_ensemble() -> None:
    scores, targets = members(1.0)
    assert greedy_weights([scores[0], scores[0].copy()], targets).tolist() == [1, 0]


def test_one_member_is_an_ensemble_too() -> None:
    scores, targets = members(1.0)
    assert greedy_weights(scores, targets).tolist() == [1]


def test_labels_that_are_not_annotated_take_no_part() -> None:
    scores, targets = members(1.0, 1.0)
    misleading = targets.copy()
    misleading[:300] = np.nan
    spoilt = [scores[0].copy(), scores[1]]
    spoilt[0][:, :300] = -100 * targets[:300].T
    assert greedy_weights(spoilt, misleading)[0] > 0.2
    assert greedy_weights(spoilt, targets)[0] == 0
