"""Stacking: logistic regression per class on members' scores, regularised towards their plain mean."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

SLOPE_SD = 3.0
"""Of the sum of weights, about 1: scores have an interquartile range of 1, on which slopes are 1 to 5."""
WEIGHT_SD = 0.3
"""Of a member's weight about the mean's, and of a context coefficient about 0: worth 11 positives where what
it weighs spreads by 1, 100 where it spreads by a third, as the differences of good members do. In simulations
with 10 to 800 positives, features of noise cost at most .002 AP under it."""
STEPS = 50
TOLERANCE, SMALLEST_STEP = 1e-9, 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Of one class: logit = bias + weights (m,) @ scores + context (f,) @ features."""

    bias: float
    weights: Floats
    context: Floats


def fit_stack(scores: Floats, targets: Floats, features: Floats | None = None) -> Stack:
    """The posterior mode for scores (n, m), targets (n,) in [0, 1] or NaN (left out) and features (n, f).

    The prior of the weights is normal about the plain mean (1/m each): wide (SLOPE_SD) along it, as it only
    says how sharp probabilities are, and narrow (WEIGHT_SD) across it, as that needs evidence. Features have
    a prior about 0. So without evidence the scores are ranked by their mean. Raises ValueError for targets
    outside [0, 1].
    """
    known = ~np.isnan(targets)
    target, n_members = targets[known], scores.shape[1]
    if (target < 0).any() or (target > 1).any():
        raise ValueError("targets must lie in [0, 1] or be NaN.")
    columns = scores if features is None else np.hstack([scores, features])
    design = np.hstack([np.ones((len(target), 1)), columns[known]])
    start, precision = _prior(n_members, design.shape[1] - 1 - n_members)
    # as if half a row more had the finding: a class nobody has gets a finite bias, too
    share = (target.sum() + 0.5) / (len(target) + 1)
    start[0] = np.log(share / (1 - share))
    found = start
    if 0 < target.sum() < len(target):
        found = _posterior_mode(design, target, start, precision)
    return Stack(float(found[0]), found[1 : 1 + n_members], found[1 + n_members :])


def _prior(n_members: int, n_features: int) -> tuple[Floats, Floats]:
    """Mean (p,) and precision (p, p) of bias, weights and context; nothing is known of the bias."""
    mean = np.concatenate([[0.0], np.full(n_members, 1 / n_members), np.zeros(n_features)])
    along = np.full((n_members, n_members), 1 / n_members)
    across = np.eye(n_members) - along
    precision = np.zeros((len(mean), len(mean)))
    inner = slice(1, 1 + n_members)
    # the sum of m weights that lie along the mean has sqrt(m) times their length
    precision[inner, inner] = along * n_members / SLOPE_SD**2 + across / WEIGHT_SD**2
    outer = np.arange(1 + n_members, len(mean))
    precision[outer, outer] = 1 / WEIGHT_SD**2
    return mean, precision


def _posterior_mode(design: Floats, target: Floats, mean: Floats, precision: Floats) -> Floats:
    """Newton's method from the prior's mean, steps halved until the convex objective falls."""

    def objective(theta: Floats) -> float:
        logits, off = design @ theta, theta - mean
        return float((np.logaddexp(0, logits) - target * logits).sum() + off @ precision @ off / 2)

    theta, value = mean, objective(mean)
    for _ in range(STEPS):
        p = expit(design @ theta)
        gradient = design.T @ (p - target) + precision @ (theta - mean)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + precision
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        decrement, size = float(gradient @ step), 1.0
        while size > SMALLEST_STEP and objective(theta - size * step) > value - 1e-4 * size * decrement:
            size /= 2
        if decrement < TOLERANCE or size <= SMALLEST_STEP:
            break
        theta = theta - size * step
        value = objective(theta)
    return theta
