import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from cxrlt.ensembles.stacking import SLOPE_SD, WEIGHT_SD, Stack, fit_stack


def draw(
    n_rows: int, slopes: tuple[float, ...], bias: float = -2.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal scores (n, m) and labels of the logistic model with these weights."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_rows, len(slopes)))
    return scores, (rng.random(n_rows) < expit(bias + scores @ np.array(slopes))).astype(float)


def share_of_first(stack: Stack) -> float:
    return stack.weights[0] / stack.weights.sum()


def test_with_many_positives_the_coefficients_are_those_of_the_data() -> None:
    stack = fit_stack(*draw(100_000, (2.0, 0.5)))
    assert stack.weights == pytest.approx([2.0, 0.5], abs=0.08)
    assert stack.bias == pytest.approx(-2.0, abs=0.05)


@pytest.mark.parametrize("scale", [1, -5])
def test_the_fit_is_the_mode_of_the_penalised_likelihood(scale: float) -> None:
    """Also where members are wrong and far from 0, from where whole Newton steps lead away."""
    scores, targets = draw(300, (1.5, 0.2, 0.9))
    scores = scale * scores
    features = np.random.default_rng(1).normal(size=(300, 2))
    stack = fit_stack(scores, targets, features)

    def objective(theta: np.ndarray) -> float:
        logits = theta[0] + scores @ theta[1:4] + features @ theta[4:]
        total = theta[1:4].sum() - 1
        across = theta[1:4] - theta[1:4].mean()
        prior = (
            total**2 / SLOPE_SD**2 + (across**2).sum() / WEIGHT_SD**2 + (theta[4:] ** 2).sum() / WEIGHT_SD**2
        )
        return np.logaddexp(0, logits).sum() - targets @ logits + prior / 2

    expected = minimize(objective, np.zeros(6), tol=1e-12).x
    assert [stack.bias, *stack.weights, *stack.context] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("targets", [np.zeros(50), np.ones(50), np.full(50, np.nan)])
def test_a_class_without_evidence_is_ranked_by_the_plain_mean(targets: np.ndarray) -> None:
    scores = np.random.default_rng(0).normal(size=(50, 3))
    stack = fit_stack(scores, targets, scores[:, :2])
    assert stack.weights == pytest.approx([1 / 3] * 3)
    assert stack.context.tolist() == [0, 0]
    assert np.isfinite(stack.bias)


def test_the_fewer_the_positives_the_nearer_the_weights_are_to_equal_ones() -> None:
    shares = [
        share_of_first(fit_stack(*draw(n_rows, (3.0, 0.0), bias=-4, seed=3))) for n_rows in (40_000, 1000, 40)
    ]
    assert shares[0] > 0.95
    assert shares[0] > shares[1] > shares[2] > 0.5
    assert shares[2] < 0.65


def test_one_perfectly_ranked_positive_gives_finite_and_almost_equal_weights() -> None:
    scores = np.random.default_rng(0).normal(size=(5000, 2))
    targets = np.zeros(5000)
    scores[0], targets[0] = (8.0, 3.0), 1
    stack = fit_stack(scores, targets)
    assert np.isfinite([stack.bias, *stack.weights]).all()
    assert 0.5 <= share_of_first(stack) < 0.65


@pytest.mark.parametrize("seed", [5, 7])
def test_extreme_separable_scores_give_finite_weights(seed: int) -> None:
    """Every probability becomes 0 or 1 on the way, where nothing but a prior curves the bias."""
    targets = np.array([1.0, 1, 0, 0, 0])
    scores = 1000 * (np.random.default_rng(seed).normal(size=(5, 2)) + 2 * targets[:, None])
    stack = fit_stack(scores, targets)
    assert np.isfinite([stack.bias, *stack.weights]).all()


def test_unannotated_rows_are_left_out() -> None:
    scores, targets = draw(400, (1.0, 0.3))
    blank = targets.copy()
    blank[::3] = np.nan
    misleading = np.where(np.isnan(blank)[:, None], 1e6, scores)
    found, expected = (
        fit_stack(misleading, blank),
        fit_stack(scores[~np.isnan(blank)], targets[~np.isnan(blank)]),
    )
    assert (found.weights == expected.weights).all()


def test_soft_targets_are_legal_and_weigh_as_much_as_they_say() -> None:
    scores, targets = draw(400, (1.0, 0.3))
    soft = fit_stack(scores, 0.5 * targets + 0.25)
    # the same as every row four times, with its label three times and once with the other
    both = fit_stack(np.tile(scores, (4, 1)), np.concatenate([targets, targets, targets, 1 - targets]))
    assert soft.bias == pytest.approx(both.bias, abs=0.1)
    assert np.sign(soft.weights).tolist() == np.sign(both.weights).tolist()
    assert abs(soft.weights.sum()) < abs(fit_stack(scores, targets).weights.sum())
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fit_stack(scores, targets * 2)


def test_a_feature_of_noise_gets_a_coefficient_near_0_and_one_that_helps_does_not() -> None:
    rng = np.random.default_rng(5)
    scores, _ = draw(20_000, (1.0,))
    features = rng.normal(size=(20_000, 2))
    targets = (rng.random(20_000) < expit(-2 + 1.5 * scores[:, 0] + 0.8 * features[:, 0])).astype(float)
    stack = fit_stack(scores, targets, features)
    assert stack.context == pytest.approx([0.8, 0.0], abs=0.08)
