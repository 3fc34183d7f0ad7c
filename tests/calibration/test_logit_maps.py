import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cxrlt.calibration import METHODS
from cxrlt.calibration.logit_maps import LogitMap, f1_threshold, fit_maps
from cxrlt.metrics import average_precision
from probability_metrics import class_ece, class_f1

PREVALENCES = (0.3, 0.1, 0.02, 0.005)


def draw(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a long tail, and the logits that are their true log-odds."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n_rows, 4)) < PREVALENCES
    return labels, 2 * (rng.normal(size=labels.shape) + 2 * labels) - 2 + logit(PREVALENCES)


def fit(method: str, logits: np.ndarray, labels: np.ndarray) -> list[LogitMap]:
    classes = {str(c): (logits[:, c], labels[:, c]) for c in range(labels.shape[1])}
    return list(fit_maps(method, classes).values())


def apply(maps: list[LogitMap], logits: np.ndarray) -> np.ndarray:
    return np.stack([each(logits[:, c]) for c, each in enumerate(maps)], axis=1)


def like_ral(logits: np.ndarray) -> np.ndarray:
    """Log-odds squeezed towards .5: a class of one in 500 rests at a probability of .35."""
    return 0.5 * logits - 0.62 - 0.5 * logit(0.002)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_distorted_probabilities_become_calibrated_and_their_f1_at_one_half_rises(method: str) -> None:
    (labels, truth), (unseen, unseen_truth) = draw(4000), draw(20_000, seed=1)
    maps = fit(method, like_ral(truth), labels)
    raw, mapped = like_ral(unseen_truth), apply(maps, like_ral(unseen_truth))
    assert class_ece(unseen, expit(raw)).min() > 0.1
    assert class_ece(unseen, expit(mapped)).max() < 0.02
    thresholds = [f1_threshold(expit(column)) for column in apply(maps, like_ral(truth)).T]
    called = class_f1(unseen, expit(mapped), thresholds).mean()
    assert called > class_f1(unseen, expit(mapped)).mean() > class_f1(unseen, expit(raw)).mean()
    best = [f1_threshold(expit(column)) for column in truth.T]
    assert called > class_f1(unseen, expit(unseen_truth), best).mean() - 0.02


def test_the_true_log_odds_are_left_about_as_they_are() -> None:
    labels, truth = draw(20_000)
    for method in METHODS:
        maps = fit(method, truth, labels)
        assert np.abs(expit(apply(maps, truth)) - expit(truth)).mean() < 0.01
    assert [each.slope for each in fit("temperature", truth, labels)] == pytest.approx([1] * 4, abs=0.05)


def test_a_temperature_is_found_and_shared_by_all_classes() -> None:
    labels, truth = draw(20_000)
    maps = fit("temperature", truth * 3, labels)
    assert len({each.slope for each in maps}) == 1
    assert maps[0].slope == pytest.approx(1 / 3, abs=0.02)
    assert all(each.offset == 0 for each in maps)


@pytest.mark.parametrize("only", [True, False])
def test_a_class_with_one_value_does_not_change_the_temperature(only: bool) -> None:
    labels, truth = draw(2000)
    classes = {str(c): (3 * truth[:, c], labels[:, c]) for c in range(4)}
    alike = classes | {"one value": (np.full(500, 4.0), np.full(500, only))}
    assert fit_maps("temperature", alike)["0"] == fit_maps("temperature", classes)["0"]


def test_with_many_positives_the_line_is_scikit_learns_logistic_regression() -> None:
    labels, truth = draw(20_000)
    logits = like_ral(truth)
    line = fit("logistic", logits[:, :1], labels[:, :1])[0]
    model = LogisticRegression(C=np.inf).fit(logits[:, :1], labels[:, 0])
    assert line.slope == pytest.approx(model.coef_.item(), rel=0.02)
    assert line.offset == pytest.approx(model.intercept_.item(), abs=0.05)


def test_a_class_of_few_positives_borrows_the_slope_of_the_others() -> None:
    labels, truth = draw(3000)
    few = np.zeros(3000, dtype=bool)
    few[np.argsort(truth[:, 3])[-5:]] = True  # the five highest: on their own the slope has no bound
    lines = fit("logistic", truth, np.column_stack([labels[:, :3], few]))
    assert 0.5 < lines[3].slope < 3
    assert expit(lines[3](truth[:, 3])).mean() == pytest.approx(5 / 3000, rel=0.3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_positive", [0, 1, 2, 60])
@pytest.mark.parametrize("kind", ["usual", "constant", "extreme", "wrong way round", "tiny", "tied"])
def test_every_map_rises_strictly_and_stays_finite(method: str, n_positive: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(60) < n_positive
    logits = {
        "usual": rng.normal(size=60),
        "constant": np.full(60, -3.3),
        "extreme": rng.permutation(np.linspace(-100, 100, 60)),
        "wrong way round": np.arange(60) / 10,
        "tiny": rng.normal(size=60) * 1e-6 + 5,
        "tied": rng.integers(0, 4, 60).astype(float),
    }[kind]
    each = fit_maps(method, {"a": (logits, positive)})["a"]
    grid = np.linspace(-150, 150, 3001)
    mapped = each(np.sort(np.append(grid, np.unique(logits) + 1e-9)))
    assert np.isfinite(mapped).all()
    assert (np.diff(mapped) > 0).all()
    assert np.isnan(each(np.array([np.nan, 0.0]))).tolist() == [True, False]


@pytest.mark.parametrize("method", METHODS)
def test_the_average_precision_of_every_class_stays_the_same(method: str) -> None:
    labels, truth = draw(3000)
    logits = like_ral(truth).astype(np.float32).astype(np.float64)
    probabilities = expit(apply(fit(method, logits, labels), logits))
    before, after = (average_precision(labels.astype(float), scores) for scores in (logits, probabilities))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)


def test_isotonic_steps_are_scikit_learns_up_to_platts_targets() -> None:
    labels, truth = draw(2000)
    logits, positive = np.round(truth[:, 1], 1), labels[:, 1]  # with ties
    steps = np.array(fit_maps("isotonic", {"a": (logits, positive)})["a"].steps)
    low, high = 1 / ((~positive).sum() + 2), (positive.sum() + 1) / (positive.sum() + 2)
    expected = IsotonicRegression().fit(logits, positive).predict(steps[:, 0])
    np.testing.assert_allclose(expit(steps[:, 1]), low + expected * (high - low), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_known_rows_still_has_a_map(method: str) -> None:
    labels, truth = draw(200)
    empty = (np.zeros(0), np.zeros(0, dtype=bool))
    maps = fit_maps(method, {"known": (truth[:, 0], labels[:, 0]), "unknown": empty})
    assert list(maps) == ["known", "unknown"]
    assert maps["unknown"].slope > 0


def test_the_threshold_is_half_of_the_f1_it_reaches() -> None:
    probabilities = np.array([0.9, 0.8, 0.3, 0.1])
    best = max(2 * probabilities[:k].sum() / (k + probabilities.sum()) for k in (1, 2, 3, 4))
    assert f1_threshold(probabilities) == pytest.approx(best / 2)
    assert f1_threshold(np.array([1.0, 0.0])) == 0.5


def test_no_other_threshold_expects_a_higher_f1() -> None:
    probabilities = expit(draw(2000)[1][:, 2])

    def expected_f1(threshold: float) -> float:
        called = probabilities >= threshold
        return 2 * probabilities[called].sum() / (called.sum() + probabilities.sum())

    best = expected_f1(f1_threshold(probabilities))
    assert best >= max(expected_f1(threshold) for threshold in np.linspace(0.01, 0.99, 99))


def test_a_class_with_equal_probabilities_is_predicted_for_all_images() -> None:
    assert f1_threshold(np.full(10, 0.02)) < 0.02


def reference_line(
    logits: np.ndarray, positive: np.ndarray, prior: float, spread: float
) -> tuple[float, float]:
    """Slope and offset by a general minimiser, of the log-loss on Platt's targets and the slope's prior."""
    n_positive, n_negative = positive.sum(), (~positive).sum()
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def cost(line: np.ndarray) -> float:
        value = line[0] * logits + line[1]
        return np.logaddexp(0, value).sum() - target @ value + ((line[0] - prior) / spread) ** 2 / 2

    return tuple(minimize(cost, [prior, 0.0], method="BFGS", options={"gtol": 1e-7}).x)


def test_the_slope_of_a_class_is_drawn_to_the_mean_of_all_weighted_by_what_their_rows_tell() -> None:
    labels, truth = draw(1500)
    logits = truth * [0.5, 1.0, 2.0, 1.0] + 1
    own, told = [], []
    for z, positive in zip(logits.T, labels.T, strict=True):
        slope, offset = reference_line(z, positive, prior=1, spread=1)
        p = expit(slope * z + offset)
        weight = p * (1 - p)
        own.append(slope)
        told.append(np.cov(z, aweights=weight, ddof=0) * weight.sum())
    common = np.average(own, weights=told)
    classes = {str(c): (logits[:, c], labels[:, c]) for c in range(4)}
    nothing_known = (np.zeros(0), np.zeros(0, dtype=bool))
    maps = fit_maps("logistic", classes | {"unknown": nothing_known})
    assert maps["unknown"] == LogitMap(pytest.approx(common, rel=1e-5), 0.0)
    for name, (z, positive) in classes.items():
        expected = reference_line(z, positive, prior=common, spread=common / 2)
        assert (maps[name].slope, maps[name].offset) == pytest.approx(expected, rel=1e-4)


def test_a_class_that_is_ranked_the_wrong_way_round_gets_a_hundredth_of_the_common_slope() -> None:
    labels, truth = draw(4000)
    turned = fit("logistic", np.column_stack([truth[:, :3] / 2, -truth[:, 0]]), labels[:, [0, 1, 2, 0]])
    empty = {"unknown": (np.zeros(0), np.zeros(0, dtype=bool))}
    classes = {str(c): (truth[:, c] / 2, labels[:, c]) for c in range(3)}
    common = fit_maps("logistic", classes | {"turned": (-truth[:, 0], labels[:, 0])} | empty)["unknown"].slope
    assert turned[3].slope == pytest.approx(0.01 * common)
    # at that slope the probabilities still add up to Platt's targets
    n_positive = labels[:, 0].sum()
    targets = np.where(labels[:, 0], (n_positive + 1) / (n_positive + 2), 1 / (4000 - n_positive + 2))
    assert expit(turned[3](-truth[:, 0])).sum() == pytest.approx(targets.sum())


def test_the_temperature_minimises_the_mean_loss_of_the_classes_and_a_prior_of_one_row() -> None:
    """The only class with both values is ranked without a fault: the prior alone bounds its slope."""
    positive = np.arange(30) < 10
    logits = np.where(positive, 1.0, -1.0)
    slope = fit_maps("temperature", {"a": (logits, positive), "b": (logits, positive | True)})["a"].slope
    log_slopes = np.linspace(-4, 4, 80_001)
    cost = np.logaddexp(0, -np.exp(log_slopes)) + log_slopes**2 / 2 / 30
    assert slope == pytest.approx(np.exp(log_slopes[cost.argmin()]), rel=1e-3)
