import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from cxrlt.ensembles import selection
from cxrlt.ensembles.selection import N_ROUNDS, greedy_weights, per_class_weights
from cxrlt.metrics import average_precision, macro, macro_metric, metric_names


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
    achieved = map_of(np.tensordot(weights, np.array(scores), axes=1), targets)
    assert achieved >= max(map_of(member, targets) for member in scores)
    assert achieved >= map_of(np.mean(scores, axis=0), targets) - 1e-3


def test_a_member_that_only_hurts_gets_no_weight() -> None:
    scores, targets = members(2.0, 0.0)
    assert greedy_weights([scores[0], scores[1] * 5], targets, "mAP").tolist() == [1, 0]


def test_identical_members_give_the_smallest_ensemble() -> None:
    scores, targets = members(1.0)
    assert greedy_weights([scores[0], scores[0].copy()], targets, "mAP").tolist() == [1, 0]


def test_one_member_is_an_ensemble_too() -> None:
    scores, targets = members(1.0)
    assert greedy_weights(scores, targets, "mAP").tolist() == [1]


def test_without_a_round_the_best_member_is_all_there_is() -> None:
    scores, targets = members(1.0, 1.5, 0.5)
    assert greedy_weights(scores, targets, "mAP", rounds=0).tolist() == [0, 1, 0]
    assert sorted(greedy_weights(scores, targets, "mAP", rounds=1)) == [0, 0.5, 0.5]


def test_threads_choose_the_same_members(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = members(1.0, 1.5, 0.5)
    alone = greedy_weights(scores, targets, "mAP")
    by_class = per_class_weights(scores, targets, "mAP", alone)
    monkeypatch.setattr(selection, "MIN_ROWS_FOR_THREADS", 0)
    assert greedy_weights(scores, targets, "mAP").tolist() == alone.tolist()
    assert per_class_weights(scores, targets, "mAP", alone).tolist() == by_class.tolist()


def test_members_are_left_as_they_were() -> None:
    scores, targets = members(1.0, 1.2)
    given = [member.copy() for member in scores]
    greedy_weights(scores, targets, "mAP")
    assert all((member == before).all() for member, before in zip(scores, given, strict=True))


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
    achieved = {}
    for climbed in ("mAP", "mAUROC"):
        weights = greedy_weights(scores, targets, climbed)
        mixed = np.tensordot(weights, np.array(scores), axes=1)
        achieved[climbed] = {m: macro_metric(m, targets, mixed.T) for m in ("mAP", "mAUROC")}
    assert achieved["mAP"]["mAP"] > achieved["mAUROC"]["mAP"]
    assert achieved["mAUROC"]["mAUROC"] > achieved["mAP"]["mAUROC"]


@pytest.mark.parametrize("metric", metric_names("single_label"))
def test_with_one_class_per_row_every_metric_is_climbed_over_averaged_probabilities(metric: str) -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(4)[rng.choice(4, 500, p=(0.6, 0.25, 0.1, 0.05))]
    logits = [skill * targets + rng.normal(size=targets.shape) for skill in (1.5, 1.2, 1.0)]
    scores = [log_softmax(member, axis=1).T.astype(np.float32) for member in logits]
    blank = targets.copy()
    blank[::5] = np.nan
    known = ~np.isnan(blank[:, 0])

    def achieved(weights: np.ndarray) -> float:
        mixed = softmax(np.tensordot(weights, np.array(scores, np.float64), axes=1), axis=0)
        return macro_metric(metric, blank, mixed.T)

    weights = greedy_weights(scores, blank, metric, "single_label")
    counts = np.eye(3)[np.argmax(list(map(achieved, np.eye(3))))]
    tried = [counts]
    for _ in range(N_ROUNDS):
        steps = [counts + step for step in np.eye(3)]
        counts = steps[np.argmax([achieved(step / step.sum()) for step in steps])]
        tried.append(counts)
    best = max(tried, key=lambda step: achieved(step / step.sum()))
    assert weights.tolist() == (best / best.sum()).tolist()
    assert 0 < weights[0] < 1
    labelled = [member[:, known] for member in scores]
    assert weights.tolist() == greedy_weights(labelled, blank[known], metric, "single_label").tolist()


@pytest.mark.parametrize("metric", ["mAP", "mAUROC"])
def test_a_class_with_positives_and_blanks_only_is_out_of_what_members_are_chosen_by(metric: str) -> None:
    scores, targets = members(1.0, 1.5)
    blank = targets.copy()
    blank[targets[:, 0] == 0, 0] = np.nan
    metric_with = selection._ranking_metric(blank, metric, "multi_label")
    expected = macro_metric(metric, targets[:, 1:], scores[1][1:].T)
    assert metric_with(np.zeros_like(scores[0]), scores[1], 1) == pytest.approx(expected)
    overall = greedy_weights(scores, blank, metric)
    assert overall.tolist() == greedy_weights([each[1:] for each in scores], targets[:, 1:], metric).tolist()
    assert per_class_weights(scores, blank, metric, overall)[0].tolist() == overall.tolist()
