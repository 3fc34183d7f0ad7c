"""Per-class metrics of probabilities with scikit-learn: targets (n, c) and scores (n, c) -> (c,)."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score


def class_ece(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    def ece(target: np.ndarray, probability: np.ndarray) -> float:
        share, mean = calibration_curve(target, probability, n_bins=15)
        counts = np.histogram(probability, np.linspace(0, 1, 16))[0]
        return np.abs(share - mean) @ counts[counts > 0] / len(target)

    return _by_class(ece, targets, probabilities)


def class_f1(targets: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray = 0.5) -> np.ndarray:
    limits = np.broadcast_to(threshold, np.shape(targets)[1])
    predicted = np.where(np.isnan(scores), np.nan, np.asarray(scores) >= limits)
    return _by_class(
        lambda target, prediction: f1_score(target, prediction, zero_division=0), targets, predicted
    )


def class_log_loss(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    def log_loss(target: np.ndarray, logit: np.ndarray) -> float:
        return -np.log(np.where(target == 1, expit(logit), expit(-logit))).mean()

    return _by_class(log_loss, targets, logits)


def _by_class(
    metric: Callable[[np.ndarray, np.ndarray], float], targets: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Return NaN for a class that lacks positives or negatives; NaN targets are ignored."""
    values = []
    for target, score in zip(np.asarray(targets).T, np.asarray(scores).T, strict=True):
        known = ~np.isnan(target)
        both = len(np.unique(target[known])) == 2
        values.append(metric(target[known], score[known]) if both else np.nan)
    return np.array(values)
