"""Stacking: logistic regression per class on members' scores, regularised towards their plain mean."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import entr

SLOPE_SD = 3.0
"""Of the sum of weights, about 1: scores have an interquartile range of 1, on which slopes are 1 to 5."""
WEIGHT_SD = 0.3
"""Of a member's weight about the mean's, and of a context coefficient about 0: worth 11 positives where what
it weighs spreads by 1, 100 where it spreads by a third, as the differences of good members do. In simulations
with 10 to 800 positives, features of noise cost at most .002 AP under it."""
FLAT = 1e-9
"""Curvature where there is no prior, and none of perfectly separated rows: in the Hessian alone."""
TOLERANCE = 1e-10
"""Of the gradient, relative to the loss of one probability for all rows: sums do not tell smaller ones."""

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
    design = np.vstack([np.ones(len(target)), columns[known].T])
    start, precision = _prior(n_members, len(design) - 1 - n_members)
    # as if half a row more had the finding: a class nobody has gets a finite bias, too
    share = (target.sum() + 0.5) / (len(target) + 1)
    start[0] = np.log(share / (1 - share))
    found = start
    if 0 < target.sum() < len(target):
        found = posterior_mode(design, target, start, precision)
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


def posterior_mode(
    design: Floats, target: Floats, mean: Floats, precision: Floats, offset: float | Floats = 0.0
) -> Floats:
    """Coefficients (p,) of a logistic regression under a normal prior: the least log-loss plus its cost.

    Logits are coefficients @ `design` (p, n) + `offset`, targets (n,) lie in [0, 1]. The prior has this mean
    (p,), where the search starts, and this precision (p, p), in which 0 on the diagonal means no prior.
    """
    flat = np.diag(np.where(np.diag(precision) == 0, FLAT, 0.0))

    @lru_cache(maxsize=1)  # the Hessian is asked for where the cost was
    def logits_at(theta: bytes) -> tuple[Floats, Floats]:
        logits = np.frombuffer(theta) @ design + offset
        return logits, np.exp(-np.abs(logits))  # one exponential serves the loss, p and p (1 - p)

    def cost(theta: Floats) -> tuple[float, Floats]:
        (logits, small), pull = logits_at(theta.tobytes()), precision @ (theta - mean)
        loss = np.log1p(small).sum() + np.maximum(logits, 0).sum() - target @ logits
        p = np.where(logits > 0, 1.0, small) / (1 + small)
        return float(loss + (theta - mean) @ pull / 2), design @ (p - target) + pull

    def hessian(theta: Floats) -> Floats:
        _, small = logits_at(theta.tobytes())
        return (design * (small / (1 + small) ** 2)) @ design.T + precision + flat

    share = target.mean()
    gtol = TOLERANCE * max(1.0, len(target) * (entr(share) + entr(1 - share)))
    options = {"gtol": gtol, "initial_trust_radius": 1e3, "max_trust_radius": 1e9}
    found = minimize(cost, mean, jac=True, hess=hessian, method="trust-exact", options=options).x
    # a last step to the precision of numbers: a coefficient that is 0 by symmetry then parts no equal rows
    polished = found - np.linalg.solve(hessian(found), cost(found)[1])
    return polished if cost(polished)[0] <= cost(found)[0] else found
