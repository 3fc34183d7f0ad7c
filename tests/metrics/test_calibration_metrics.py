import numpy as np
import pytest
from scipy.special import expit, logit

from cxrlt.metrics import macro, paired_difference
from cxrlt.metrics.calibration import LOCAL_ECE, LOG_LOSS, MF1, calibration_bootstrap
from probability_metrics import class_ece, class_f1, class_log_loss


def labelled(n_rows: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, from common to rare, and logits that carry some signal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, 3)) < (0.5, 0.2, 0.03)).astype(float)
    return targets, 2 * targets + rng.normal(size=targets.shape) - 1


def values_of(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    drawn = calibration_bootstrap(targets, logits, np.arange(len(targets)), n_draws=1)
    return {name: metric.value for name, metric in drawn.items()}


def by_scikit_learn(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    return {
        LOCAL_ECE: float(macro(class_ece(targets, expit(logits)))),
        MF1: float(macro(class_f1(targets, expit(logits)))),
        LOG_LOSS: float(macro(class_log_loss(targets, logits))),
    }


def test_every_metric_equals_scikit_learn() -> None:
    targets, logits = labelled()
    assert values_of(targets, logits) == pytest.approx(by_scikit_learn(targets, logits), abs=1e-12)


def test_the_local_ece_is_the_gap_between_probability_and_share_weighted_by_rows() -> None:
    targets, probabilities = np.array([[1.0], [0.0], [0.0], [1.0]]), np.array([[0.1], [0.1], [0.1], [0.9]])
    gap = 3 / 4 * (1 / 3 - 0.1) + 1 / 4 * 0.1
    assert values_of(targets, logit(probabilities))[LOCAL_ECE] == pytest.approx(gap)


@pytest.mark.parametrize(("sign", "ece"), [(1, 0), (-1, 1)])
def test_a_probability_of_one_falls_into_the_last_bin(sign: int, ece: float) -> None:
    logits = sign * np.array([[np.inf], [-np.inf]])
    assert values_of(np.array([[1.0], [0.0]]), logits)[LOCAL_ECE] == pytest.approx(ece)


def test_a_probability_of_one_half_is_a_positive_prediction() -> None:
    assert values_of(np.array([[1.0], [0.0]]), np.array([[0.0], [-1.0]]))[MF1] == 1


def test_unknown_targets_do_not_count_and_classes_without_both_values_are_left_out() -> None:
    targets, logits = labelled()
    unknown = targets.copy()
    unknown[::3, 0] = np.nan
    unknown[:, 1] = 0
    unknown[:, 2] = np.nan
    rest = np.arange(len(targets)) % 3 != 0
    assert values_of(unknown, logits) == pytest.approx(values_of(targets[rest, :1], logits[rest, :1]))
    assert np.isnan(list(values_of(unknown[:, 1:], logits[:, 1:]).values())).all()


def test_large_logits_keep_the_log_loss_finite() -> None:
    assert values_of(np.array([[1.0], [0.0]]), np.full((2, 1), -800.0))[LOG_LOSS] == pytest.approx(400)


def test_bootstrap_draws_are_the_metrics_of_the_patients_drawn() -> None:
    targets, logits = labelled(300)
    targets[5, 0] = np.nan
    clusters = np.repeat(np.arange(100), 3)
    drawn = calibration_bootstrap(targets, logits, clusters, n_draws=70, seed=3)
    rng = np.random.default_rng(3)
    for draw in range(70):
        rows = np.concatenate([np.flatnonzero(clusters == k) for k in rng.integers(100, size=100)])
        if draw in (0, 33, 69):
            found = {name: metric.draws[draw] for name, metric in drawn.items()}
            assert found == pytest.approx(by_scikit_learn(targets[rows], logits[rows]))


def test_a_difference_is_paired_over_patients() -> None:
    targets, logits = labelled()
    better, worse = (
        calibration_bootstrap(targets, z, np.arange(len(targets)), n_draws=200)[LOG_LOSS]
        for z in (logits, logit(np.full(logits.shape, 0.5)))
    )
    assert paired_difference(worse, better).low > 0
    assert paired_difference(better, better).high == 0
