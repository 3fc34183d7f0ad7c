import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, log_loss

from cxrlt.metrics import macro, paired_difference
from cxrlt.metrics.calibration import (
    LOCAL_ECE,
    LOG_LOSS,
    MF1,
    calibration_bootstrap,
    class_ece,
    class_f1,
    class_log_loss,
)


def labelled(n_rows: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, from common to rare, and logits that carry some signal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, 3)) < (0.5, 0.2, 0.03)).astype(float)
    return targets, 2 * targets + rng.normal(size=targets.shape) - 1


def test_the_local_ece_is_the_gap_between_probability_and_share_weighted_by_rows() -> None:
    targets = np.array([[1.0], [0.0], [0.0], [1.0]])
    probabilities = np.array([[0.1], [0.1], [0.1], [0.9]])
    assert class_ece(targets, probabilities, n_bins=2) == pytest.approx([3 / 4 * (1 / 3 - 0.1) + 1 / 4 * 0.1])
    assert class_ece(targets, probabilities, n_bins=1) == pytest.approx([0.5 - 0.3])


def test_a_probability_of_one_falls_into_the_last_bin() -> None:
    assert class_ece([[1.0], [0.0]], [[1.0], [0.0]]) == pytest.approx([0])
    assert class_ece([[0.0], [1.0]], [[1.0], [0.0]]) == pytest.approx([1])


def test_bins_are_those_of_scikit_learns_calibration_curve() -> None:
    targets, logits = labelled()
    for c, value in enumerate(class_ece(targets, expit(logits))):
        share, mean = calibration_curve(targets[:, c], expit(logits[:, c]), n_bins=15)
        counts = np.histogram(expit(logits[:, c]), np.linspace(0, 1, 16))[0]
        expected = np.abs(share - mean) @ counts[counts > 0] / len(targets)
        assert value == pytest.approx(expected, abs=1e-12)


def test_f1_and_log_loss_equal_scikit_learn() -> None:
    targets, logits = labelled()
    probabilities, thresholds = expit(logits), np.array([0.5, 0.3, 0.1])
    expected = [f1_score(targets[:, c], probabilities[:, c] >= thresholds[c]) for c in range(3)]
    assert class_f1(targets, probabilities, thresholds) == pytest.approx(expected, abs=1e-12)
    expected = [f1_score(targets[:, c], probabilities[:, c] >= 0.5) for c in range(3)]
    assert class_f1(targets, probabilities) == pytest.approx(expected, abs=1e-12)
    expected = [log_loss(targets[:, c], probabilities[:, c]) for c in range(3)]
    assert class_log_loss(targets, logits) == pytest.approx(expected, abs=1e-12)


def test_a_score_at_the_threshold_counts_as_found() -> None:
    assert class_f1([[1.0], [0.0]], [[0.5], [0.2]]) == pytest.approx([1])


def test_unknown_targets_do_not_count_and_classes_without_both_values_are_undefined() -> None:
    targets, logits = labelled()
    unknown, probabilities = targets.copy(), expit(logits)
    unknown[::3, 0] = np.nan
    unknown[:, 1] = 0
    unknown[:, 2] = np.nan
    rest = np.arange(len(targets)) % 3 != 0
    for metric, scores in ((class_ece, probabilities), (class_f1, probabilities), (class_log_loss, logits)):
        values = metric(unknown, scores)
        assert values[0] == pytest.approx(metric(targets[rest, :1], scores[rest, :1])[0])
        assert np.isnan(values[1:]).all()


def test_logits_far_out_keep_the_log_loss_finite() -> None:
    assert class_log_loss([[1.0], [0.0]], [[-800.0], [-800.0]]) == pytest.approx([400])


def test_probabilities_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        class_ece([[1.0], [0.0]], [[1.2], [0.0]])


def test_bootstrap_draws_are_the_metrics_of_the_patients_drawn() -> None:
    targets, logits = labelled(300)
    targets[5, 0] = np.nan
    clusters = np.repeat(np.arange(100), 3)
    drawn = calibration_bootstrap(targets, logits, clusters, n_draws=5, seed=3)
    rng = np.random.default_rng(3)
    for draw in range(5):
        rows = np.concatenate([np.flatnonzero(clusters == k) for k in rng.integers(100, size=100)])
        y, z = targets[rows], logits[rows]
        assert drawn[MF1].draws[draw] == pytest.approx(float(macro(class_f1(y, expit(z)))))
        assert drawn[LOCAL_ECE].draws[draw] == pytest.approx(float(macro(class_ece(y, expit(z)))))
        assert drawn[LOG_LOSS].draws[draw] == pytest.approx(float(macro(class_log_loss(y, z))))
    assert drawn[LOCAL_ECE].value == pytest.approx(float(macro(class_ece(targets, expit(logits)))))


def test_a_difference_is_paired_over_patients() -> None:
    targets, logits = labelled()
    better, worse = (
        calibration_bootstrap(targets, z, np.arange(len(targets)), n_draws=200)[LOG_LOSS]
        for z in (logits, logit(np.full(logits.shape, 0.5)))
    )
    assert paired_difference(worse, better).low > 0
    assert paired_difference(better, better).high == 0
