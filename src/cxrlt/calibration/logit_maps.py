"""Strictly increasing maps from the logits of a class to calibrated logits, and three methods to fit them.

Increasing maps do not change any ranking. Maps are fitted per class on annotated rows. They stay finite for
all labels, because long-tailed data often has classes with one positive or none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.special import expit, logit

from cxrlt.calibration import Method
from cxrlt.ensembles.stacking import posterior_mode
from cxrlt.metrics.resampling import Floats

LINEAR_SHARE = 0.01
"""Share of the straight line in an isotonic map, so that its flat steps create no ties."""
SLOPE_SPREAD = 0.5
"""Prior standard deviation of a class's slope in the logistic map, as a share of the common slope."""
MIN_SLOPE = 0.01
"""Lower limit of a slope, as a share of the common slope, for classes whose logits carry no information."""
LOG_SLOPE_BOUNDS = (-4.0, 4.0)
"""Search range of the natural logarithm of the common slope of `fit_temperature`."""
Rows = tuple[Floats, NDArray[np.bool_]]  # logits (n_rows,) and labels (n_rows,) of a class's annotated rows


@dataclass(frozen=True)
class LogitMap:
    """The map slope * logit + offset, blended with a piecewise linear function through `steps`, if any.

    `steps` are pairs (logit, calibrated logit). The logits are strictly increasing, the calibrated ones not
    decreasing. Outside of them the function is constant.
    """

    slope: float
    offset: float
    steps: tuple[tuple[float, float], ...] = ()

    def __call__(self, logits: Floats) -> Floats:
        """Map logits of any shape; NaN stays NaN."""
        line = self.slope * logits + self.offset
        if not self.steps:
            return line
        at, to = np.array(self.steps).T
        return LINEAR_SHARE * line + (1 - LINEAR_SHARE) * np.interp(logits, at, to)


def fit_maps(method: Method, classes: Mapping[str, Rows]) -> dict[str, LogitMap]:
    """Fit a map for every class by name, on the logits and labels (n_rows,) of its annotated rows."""
    maps = _FITS[method](list(classes.values()))
    return dict(zip(classes, maps, strict=True))


def fit_temperature(classes: Sequence[Rows]) -> list[LogitMap]:
    """Fit one slope for all classes, without an offset: 1 / temperature (Guo et al., ICML 2017, section 4.2).

    It minimises the mean log-loss over classes with positives and negatives, plus (log slope)^2 / 2 over the
    number of rows: a unit normal prior for the log slope, for logits that carry no information.
    """
    known = [rows for rows in classes if rows[1].any() and not rows[1].all()]
    n_rows = max((len(z) for z, _ in known), default=1)

    def loss(log_slope: float) -> float:
        each = [_log_loss(np.exp(log_slope) * z, positive) for z, positive in known]
        return float(np.mean(each or [0.0])) + log_slope**2 / 2 / n_rows

    found = minimize_scalar(loss, bounds=LOG_SLOPE_BOUNDS, method="bounded", options={"xatol": 1e-6})
    return [LogitMap(float(np.exp(found.x)), 0.0)] * len(classes)


def fit_logistic(classes: Sequence[Rows]) -> list[LogitMap]:
    """Fit slope * logit + offset with slope > 0 to Platt's targets, with a prior for the slope.

    Platt (1999, section 2.2): the target of a positive is (P + 1) / (P + 2), of a negative 1 / (N + 2), as if
    there were one more positive and one more negative; this keeps the offset finite. The prior of the slope
    is normal around the common slope of all classes, with SLOPE_SPREAD of it as standard deviation, so that a
    class with five positives mostly uses the common slope. The common slope is the mean of the classes' own
    slopes, weighted by their Fisher information; each is fitted with a normal prior of mean 1 and standard
    deviation 1.
    """
    own = [_fit_line(rows, prior=1.0, spread=1.0) for rows in classes]
    information = np.array([_slope_information(rows, line) for rows, line in zip(classes, own, strict=True)])
    slopes = np.array([line.slope for line in own])
    common = float(information @ slopes / information.sum()) if information.sum() > 0 else 1.0
    return [_fit_line(rows, prior=common, spread=SLOPE_SPREAD * common) for rows in classes]


def fit_isotonic(classes: Sequence[Rows]) -> list[LogitMap]:
    """Fit isotonic regression (pool adjacent violators) to Platt's targets, plus some of the logistic line.

    Platt's targets keep probabilities away from 0 and 1. The map is linear between two steps.
    """
    lines = fit_logistic(classes)
    return [
        LogitMap(line.slope, line.offset, _steps(*rows)) for rows, line in zip(classes, lines, strict=True)
    ]


_FITS: Mapping[Method, Callable[[Sequence[Rows]], list[LogitMap]]] = {
    "temperature": fit_temperature,
    "logistic": fit_logistic,
    "isotonic": fit_isotonic,
}


def _fit_line(rows: Rows, prior: float, spread: float) -> LogitMap:
    """Return the line that minimises log-loss + (slope - prior)^2 / (2 spread^2), a convex problem."""
    z, positive = rows
    if not len(z):
        return LogitMap(prior, 0.0)
    middle, target = float(np.median(z)), _platt_targets(positive)
    centred, ones = z - middle, np.ones_like(z)
    start, min_slope = logit(target.mean()), MIN_SLOPE * prior
    precision = np.diag([1 / spread**2, 0.0])
    slope, offset = posterior_mode(np.stack([centred, ones]), target, np.array([prior, start]), precision)
    if slope < min_slope:
        slope = min_slope
        no_prior = np.zeros((1, 1))
        (offset,) = posterior_mode(ones[None], target, np.array([offset]), no_prior, slope * centred)
    return LogitMap(float(slope), float(offset - slope * middle))


def _slope_information(rows: Rows, line: LogitMap) -> float:
    """Return the Fisher information of the slope, given an unknown offset: a weighted variance of logits."""
    z, positive = rows
    if not positive.any() or positive.all():
        return 0.0
    probability = expit(line(z))
    weight = probability * (1 - probability)
    total = weight.sum()
    return float(weight @ (z - weight @ z / total) ** 2) if total > 0 else 0.0


def _platt_targets(positive: NDArray[np.bool_]) -> Floats:
    n_positive = positive.sum()
    n_negative = len(positive) - n_positive
    return np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))


def _steps(z: Floats, positive: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return both ends of each pooled block with the logit of its mean target; equal logits are one point."""
    if not len(z):
        return ()
    at, group, counts = np.unique(z, return_inverse=True, return_counts=True)
    means = np.bincount(group, _platt_targets(positive)) / counts
    pooled = isotonic_regression(means, weights=counts)
    ends = np.union1d(pooled.blocks[:-1], pooled.blocks[1:] - 1)
    to = logit(pooled.x[ends])
    return tuple(zip(at[ends].tolist(), to.tolist(), strict=True))


def _log_loss(z: Floats, positive: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(positive, -z, z)).mean())


def f1_threshold(probabilities: Floats) -> float:
    """Return the threshold with the highest expected F1 for calibrated probabilities (n_rows,) of one class.

    Without rows it is 0.5. The best threshold is half of the F1 it reaches (Lipton, Elkan & Naryanaswamy
    2014, theorem 1). F1 is computed with expected counts: 2 * (sum of p of predicted rows) / (predicted rows
    + sum of p). Labels are not used: on the labels of a tail class with five positives, the best threshold
    would change a lot with every single positive.
    """
    ranked = np.sort(probabilities)[::-1]
    if not len(ranked):
        return 0.5
    return float(np.max(np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) + ranked.sum())))
