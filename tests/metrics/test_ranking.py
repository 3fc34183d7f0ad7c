import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrlt import metrics
from cxrlt.metrics.ranking import BLOCK_STEPS
from cxrlt.metrics.resampling import cluster_weights

pytestmark = pytest.mark.slow


def ranked(n_rows: int, n_classes: int, seed: int = 0, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Targets and rounded, hence tied, scores that carry some signal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, n_classes)) < np.geomspace(0.6, 0.02, n_classes)).astype(float)
    return targets, np.round(rng.normal(size=targets.shape) + targets, decimals)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_point_values_equal_scikit_learn_with_and_without_ties(decimals: int) -> None:
    targets, scores = ranked(700, 5, decimals=decimals)
    expected_ap = average_precision_score(targets, scores, average=None)
    expected_auroc = roc_auc_score(targets, scores, average=None)
    np.testing.assert_allclose(metrics.average_precision(targets, scores), expected_ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(metrics.auroc(targets, scores), expected_auroc, rtol=0, atol=1e-9)


def test_metrics_computed_together_equal_those_computed_alone() -> None:
    targets, scores = ranked(400, 4)
    targets[::5, 1], targets[:, 2] = np.nan, 0
    together = metrics.ranking_values(targets, scores)
    assert list(together) == ["mAP", "mAUROC"]
    np.testing.assert_array_equal(together["mAP"], metrics.average_precision(targets, scores))
    np.testing.assert_array_equal(together["mAUROC"], metrics.auroc(targets, scores))
    names = ["mAUROC", "mAP"]
    assert metrics.macro_metrics(names, targets, scores) == {
        name: metrics.macro_metric(name, targets, scores) for name in names
    }


@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_in_float32_rank_as_the_same_numbers_in_float64_and_stay_as_they_are(order: str) -> None:
    targets, scores = ranked(500, 3, decimals=12)
    targets[::7, 1] = np.nan
    narrow = np.array(scores, np.float32, order=order)
    given = narrow.copy()
    for metric in (metrics.average_precision, metrics.auroc):
        np.testing.assert_array_equal(metric(targets, narrow), metric(targets, narrow.astype(np.float64)))
    drawn, wide = (metrics.bootstrap(targets, s, np.arange(500), 20) for s in (narrow, narrow.astype(float)))
    np.testing.assert_array_equal(drawn.by_class["AP"][1], wide.by_class["AP"][1])
    np.testing.assert_array_equal(narrow, given)


def test_a_class_without_positives_is_undefined_and_left_out_of_the_macro_mean() -> None:
    targets, scores = ranked(50, 3)
    targets[:, 1] = 0
    ap, auroc = metrics.average_precision(targets, scores), metrics.auroc(targets, scores)
    assert np.isnan([ap[1], auroc[1]]).all()
    assert metrics.macro(ap) == pytest.approx((ap[0] + ap[2]) / 2)
    assert np.isnan(metrics.macro(np.full(3, np.nan)))


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_a_class_with_one_value_and_blanks_is_undefined_and_left_out_of_every_macro_mean(only: float) -> None:
    targets, scores = ranked(50, 3)
    targets[:, 1] = np.where(np.arange(50) % 3, only, np.nan)
    assert metrics.has_both_values(targets).tolist() == [True, False, True]
    others = [0, 2]
    for name, values in metrics.ranking_values(targets, scores).items():
        assert np.isnan(values[1])
        expected = metrics.macro_metric(name, targets[:, others], scores[:, others])
        assert metrics.macro_metric(name, targets, scores) == expected
        drawn, alone = (
            metrics.bootstrap(targets[:, kept], scores[:, kept], np.arange(50), 20).mean(name)
            for kept in ([0, 1, 2], others)
        )
        assert drawn.value == alone.value
        np.testing.assert_array_equal(drawn.draws, alone.draws)


def test_a_draw_without_negatives_of_a_class_is_undefined_there() -> None:
    targets, scores = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([[0.9], [0.8], [0.1], [0.5]])
    drawn = metrics.bootstrap(targets, scores, np.arange(4), n_draws=60)
    assert 0 < np.isnan(drawn.by_class["AP"][1]).sum() < 60
    np.testing.assert_array_equal(np.isnan(drawn.by_class["AP"][1]), np.isnan(drawn.by_class["AUROC"][1]))


def test_rows_that_are_not_annotated_for_a_class_are_left_out_of_that_class_only() -> None:
    targets, scores = ranked(300, 2)
    targets[::3, 0] = np.nan
    known = ~np.isnan(targets[:, 0])
    expected = average_precision_score(targets[known, 0], scores[known, 0])
    assert metrics.average_precision(targets, scores)[0] == pytest.approx(expected, abs=1e-9)
    expected = roc_auc_score(targets[:, 1], scores[:, 1])
    assert metrics.auroc(targets, scores)[1] == pytest.approx(expected, abs=1e-9)


def test_the_score_of_a_row_that_is_not_annotated_may_be_missing_and_no_other() -> None:
    targets, scores = ranked(20, 2)
    targets[3, 0] = scores[3, 0] = np.nan
    assert np.isfinite(metrics.average_precision(targets, scores)).all()
    scores[4, 1] = np.nan
    with pytest.raises(ValueError, match="has a NaN score"):
        metrics.average_precision(targets, scores)


@pytest.mark.parametrize(
    ("targets", "scores", "sentence"),
    [
        (np.full((4, 2), 0.5), np.zeros((4, 2)), "1, 0 or NaN"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "must both be"),
        (np.zeros(4), np.zeros(4), "must both be"),
    ],
)
def test_targets_and_scores_that_do_not_fit_are_refused(
    targets: np.ndarray, scores: np.ndarray, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        metrics.average_precision(targets, scores)


@pytest.mark.parametrize(("n_rows", "decimals"), [(120, 1), (120, 12), (9000, 12), (9000, 3)])
def test_a_bootstrap_draw_is_the_metric_over_the_rows_of_the_patients_drawn(
    n_rows: int, decimals: int
) -> None:
    targets, scores = ranked(n_rows, 3, decimals=decimals)
    assert n_rows < 9000 or targets[:, 0].sum() > BLOCK_STEPS  # more than are summed at once
    targets[::7, 2] = np.nan
    patient = np.random.default_rng(1).integers(n_rows // 3, size=n_rows)
    drawn = metrics.bootstrap(targets, scores, patient, n_draws=70, seed=5)
    code = np.unique(patient, return_inverse=True)[1]
    times = np.concatenate(list(cluster_weights(len(np.unique(patient)), 70, seed=5)), axis=1)
    for draw in (0, 33, 69):
        rows = np.repeat(np.arange(n_rows), times[:, draw].astype(int)[code])
        np.testing.assert_allclose(
            drawn.by_class["AP"][1][draw], metrics.average_precision(targets[rows], scores[rows]), atol=1e-9
        )
        np.testing.assert_allclose(
            drawn.by_class["AUROC"][1][draw], metrics.auroc(targets[rows], scores[rows]), atol=1e-9
        )


def test_draws_that_lack_a_class_are_left_out_and_counted() -> None:
    targets, scores = ranked(60, 2)
    targets[:, 1] = 0
    targets[7, 1] = 1
    drawn = metrics.bootstrap(targets, scores, np.arange(60), n_draws=400)
    interval = metrics.basic_interval(drawn.by_class["AP"][0][1], drawn.by_class["AP"][1][:, 1])
    assert interval.n_undefined == np.isnan(drawn.by_class["AP"][1][:, 1]).sum()
    assert 0.3 < interval.n_undefined / 400 < 0.45  # (1 - 1/60)^60 = .365
    assert not np.isnan(metrics.macro(drawn.by_class["AP"][1])).any()


def test_the_interval_is_reflected_and_never_leaves_the_range_of_the_metric() -> None:
    draws = np.linspace(0.5, 0.9, 401)
    interval = metrics.basic_interval(0.6, draws)
    assert (interval.low, interval.high) == pytest.approx((0.31, 0.69))
    assert metrics.basic_interval(0.95, np.linspace(0.6, 0.9, 50)).high == 1


def test_a_perfect_ranking_has_an_interval_without_width() -> None:
    targets, _ = ranked(80, 2)
    drawn = metrics.bootstrap(targets, targets, np.arange(80), n_draws=50)
    interval = metrics.basic_interval(
        metrics.macro(drawn.by_class["AP"][0]), metrics.macro(drawn.by_class["AP"][1])
    )
    assert (interval.low, interval.high) == pytest.approx((1, 1))


def test_the_difference_of_a_run_to_itself_is_exactly_zero() -> None:
    targets, scores = ranked(100, 3)
    once, again = (metrics.bootstrap(targets, scores, np.arange(100), n_draws=40, seed=2) for _ in range(2))
    for metric in ("mAP", "mAUROC"):
        difference = metrics.paired_difference(once.mean(metric), again.mean(metric))
        assert (difference.low, difference.value, difference.high) == (0, 0, 0)


def test_a_paired_difference_is_narrower_than_the_interval_of_one_run() -> None:
    targets, scores = ranked(400, 3)
    close = scores + 0.1 * np.random.default_rng(3).normal(size=scores.shape)
    a, b = (metrics.bootstrap(targets, s, np.arange(400), n_draws=200) for s in (scores, close))
    difference = metrics.paired_difference(a.mean("mAP"), b.mean("mAP"))
    alone = a.mean("mAP").interval()
    assert difference.value == pytest.approx(
        metrics.macro(a.by_class["AP"][0]) - metrics.macro(b.by_class["AP"][0])
    )
    assert difference.high - difference.low < (alone.high - alone.low) / 2


PREVALENCE = np.geomspace(0.3, 0.005, 20)


def cohort(rng: np.random.Generator, n_patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and scores that patients share in part: one to four images each, long-tailed prevalence."""
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 5, size=n_patients))
    sick = rng.random((n_patients, len(PREVALENCE))) < 2 * PREVALENCE
    targets = sick[patient] & (rng.random((len(patient), len(PREVALENCE))) < 0.5)
    shared = rng.normal(size=sick.shape)[patient]
    scores = 1.5 * targets + 0.6 * shared + 0.8 * rng.normal(size=targets.shape)
    return targets.astype(float), scores, patient


def test_intervals_of_macro_average_precision_cover_the_truth_where_percentiles_do_not() -> None:
    rng = np.random.default_rng(0)
    targets, scores, _ = cohort(rng, 100_000)
    truth = metrics.macro(metrics.average_precision(targets, scores))
    n_cohorts, covered, percentile_covered = 200, 0, 0
    for seed in range(n_cohorts):
        drawn = metrics.bootstrap(*cohort(rng, 600), n_draws=200, seed=seed)
        draws = metrics.macro(drawn.by_class["AP"][1])
        interval = metrics.basic_interval(metrics.macro(drawn.by_class["AP"][0]), draws)
        covered += interval.low <= truth <= interval.high
        low, high = np.quantile(draws, [0.025, 0.975])
        percentile_covered += low <= truth <= high
    assert covered / n_cohorts >= 0.90
    assert percentile_covered / n_cohorts < 0.75
