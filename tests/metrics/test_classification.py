import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from cxrlt import metrics
from cxrlt.metrics import classification
from cxrlt.metrics.resampling import cluster_weights

N_CLASSES = 5
DECISIONS = [name for name, metric in metrics.METRICS.items() if metric.kind == "decisions"]


def labelled(n_rows: int = 400, skill: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One-hot targets of a long tail, and softmax probabilities that carry some signal."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.6, 0.02, N_CLASSES)
    targets = np.eye(N_CLASSES)[rng.choice(N_CLASSES, n_rows, p=shares / shares.sum())]
    odds = np.exp(skill * targets + rng.normal(size=targets.shape))
    return targets, odds / odds.sum(axis=1, keepdims=True)


def classes_of(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return targets.argmax(axis=1), scores.argmax(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_scikit_learn(seed: int) -> None:
    targets, scores = labelled(seed=seed)
    true, predicted = classes_of(targets, scores)
    expected = {
        "macro-F1": f1_score(true, predicted, average="macro"),
        "accuracy": accuracy_score(true, predicted),
        "balanced-accuracy": balanced_accuracy_score(true, predicted),
        "weighted-F1": f1_score(true, predicted, average="weighted"),
        "kappa": cohen_kappa_score(true, predicted, weights="quadratic"),
        "mAUROC": roc_auc_score(true, scores, multi_class="ovr"),
        "mAP": average_precision_score(targets, scores),
    }
    assert set(expected) == set(metrics.metric_names("single_label"))
    for name, value in expected.items():
        assert metrics.macro_metric(name, targets, scores) == pytest.approx(value, abs=1e-12), name


def test_per_class_values_equal_scikit_learn_also_for_a_class_that_is_never_predicted() -> None:
    targets, scores = labelled()
    scores[:, 3] = 0
    true, predicted = classes_of(targets, scores)
    counts = metrics.count_predictions(targets, scores)
    table = confusion_matrix(true, predicted, labels=range(N_CLASSES))
    expected = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    np.testing.assert_array_equal((counts.true, counts.predicted, counts.hits), expected)
    expected = precision_recall_fscore_support(true, predicted, zero_division=0)[:3]
    found = classification.precision(counts), classification.recall(counts), classification.f1(counts)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert classification.precision(counts)[3] == 0


def test_a_class_without_rows_is_left_out_of_macro_means_where_scikit_learn_counts_0() -> None:
    targets, scores = labelled()
    kept = targets[:, 2] == 0
    targets, scores = targets[kept], scores[kept]
    true, predicted = classes_of(targets, scores)
    assert (predicted == 2).any()
    counts = metrics.count_predictions(targets, scores)
    per_class = classification.f1(counts)
    assert np.isnan(
        [per_class[2], classification.precision(counts)[2], classification.recall(counts)[2]]
    ).all()
    others = f1_score(true, predicted, average=None)[[0, 1, 3, 4]]
    assert metrics.macro_metric("macro-F1", targets, scores) == pytest.approx(others.mean())
    assert f1_score(true, predicted, average="macro") == pytest.approx(others.sum() / 5)
    for name, value in {
        "balanced-accuracy": np.nanmean(classification.recall(counts)),
        "weighted-F1": f1_score(true, predicted, average="weighted", zero_division=0),
        "kappa": cohen_kappa_score(true, predicted, weights="quadratic", labels=range(N_CLASSES)),
    }.items():
        assert metrics.macro_metric(name, targets, scores) == pytest.approx(value), name


def test_rows_without_a_label_are_left_out() -> None:
    targets, scores = labelled()
    blank = targets.copy()
    blank[::3] = np.nan
    blank[1, 2] = np.nan
    known = ~np.isnan(blank).any(axis=1)
    assert known.sum() == 265
    for name in DECISIONS:
        expected = metrics.macro_metric(name, targets[known], scores[known])
        assert metrics.macro_metric(name, blank, scores) == expected


def test_equal_scores_predict_the_first_of_their_classes() -> None:
    counts = metrics.count_predictions(np.eye(3), np.array([[1, 1, 0], [0, 2, 2], [3, 3, 3]]))
    assert (counts.predicted.tolist(), counts.hits.tolist()) == ([2, 1, 0], [1, 1, 0])


def test_kappa_has_quadratic_weights_and_is_undefined_for_a_single_class() -> None:
    targets = np.eye(4)[np.arange(40) % 4]
    near, far = targets.copy(), targets.copy()
    near[0], far[0] = np.eye(4)[1], np.eye(4)[3]
    kappas = [metrics.macro_metric("kappa", targets, scores) for scores in (targets, near, far)]
    assert kappas[0] == 1 > kappas[1] > kappas[2]
    assert metrics.macro_metric("kappa", targets, targets[::-1]) < 0
    assert np.isnan(metrics.macro_metric("kappa", targets[::4], targets[::4]))


@pytest.mark.parametrize("row", [[1, 1, 0], [0, 0, 0]])
def test_rows_that_do_not_have_exactly_one_class_are_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match="one-hot"):
        metrics.count_predictions(np.array([[1, 0, 0], row]), np.zeros((2, 3)))


def test_a_known_row_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="has a NaN score"):
        metrics.count_predictions(np.eye(2), np.array([[1, np.nan], [0, 1]]))


def drawn_rows(patient: np.ndarray, draw: int, n_draws: int, seed: int) -> np.ndarray:
    names, code = np.unique(patient, return_inverse=True)
    times = np.concatenate(list(cluster_weights(len(names), n_draws, seed)), axis=1)[:, draw]
    return np.repeat(np.arange(len(patient)), times.astype(int)[code])


def test_a_draw_is_every_metric_over_the_rows_of_the_patients_drawn() -> None:
    targets, scores = labelled(120)
    targets[::7] = np.nan
    patient = np.random.default_rng(1).integers(40, size=120).astype(str)
    drawn = metrics.classification_bootstrap(targets, scores, patient, n_draws=70, seed=5)
    for draw in (0, 33, 69):
        rows = drawn_rows(patient, draw, 70, 5)
        for name in DECISIONS:
            expected = metrics.macro_metric(name, targets[rows], scores[rows])
            assert drawn.overall[name].draws[draw] == pytest.approx(expected, abs=1e-12)
        expected = classification.f1(metrics.count_predictions(targets[rows], scores[rows]))
        np.testing.assert_allclose(drawn.by_class["F1"][1][draw], expected, atol=1e-12)
    for name, whole in drawn.overall.items():
        assert whole.value == metrics.macro_metric(name, targets, scores)


def test_the_patients_drawn_are_those_of_the_ranking_bootstrap_whatever_rows_are_unlabelled() -> None:
    """With one row per class and patient a class has an AP in just the draws that have its F1 and others'."""
    targets = np.eye(4)
    targets[3] = np.nan
    settings = {"clusters": np.arange(4), "n_draws": 60, "seed": 3}
    by_class = metrics.classification_bootstrap(targets, targets, **settings)
    ranked = metrics.bootstrap(targets, np.nan_to_num(targets), **settings)
    drawn = ~np.isnan(by_class.by_class["F1"][1])
    assert np.array_equal(drawn & (drawn.sum(axis=1) > 1)[:, None], ~np.isnan(ranked.by_class["AP"][1]))
    assert 0 < drawn[:, 0].sum() < 60


def test_differences_are_paired_and_those_of_kappa_may_exceed_1() -> None:
    targets, scores = labelled(300)
    close = np.where(np.random.default_rng(2).random((300, 1)) < 0.03, scores[:, ::-1], scores)
    a, b = (metrics.classification_bootstrap(targets, s, np.arange(300), 200) for s in (scores, close))
    difference = metrics.paired_difference(a.overall["macro-F1"], b.overall["macro-F1"])
    alone = a.overall["macro-F1"].interval()
    assert difference.value == a.overall["macro-F1"].value - b.overall["macro-F1"].value
    assert difference.high - difference.low < (alone.high - alone.low) / 2
    right, wrong = (np.eye(2)[np.arange(40) % 2 ^ flip] for flip in (0, 1))
    a, b = (metrics.classification_bootstrap(right, s, np.arange(40), 20) for s in (right, wrong))
    assert metrics.paired_difference(a.overall["kappa"], b.overall["kappa"]).value == 2
    assert b.overall["kappa"].interval().low == -1


def test_the_memory_for_draws_grows_with_classes_and_not_with_pairs_of_them() -> None:
    n_classes = 1500
    targets = np.eye(n_classes)[np.arange(n_classes)]
    scores = np.roll(targets, 1, axis=1) + 2 * targets * (np.arange(n_classes) % 2 == 0)
    tracemalloc.start()
    drawn = metrics.classification_bootstrap(targets, scores, np.arange(n_classes), n_draws=32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.overall["accuracy"].value == 0.5
    assert peak < 10 * targets.nbytes  # the tables of 32 draws would be 32 times that
