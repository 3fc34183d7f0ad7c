"""Strictly increasing maps from the logits of a class to calibrated logits, and three ways to fit them.

Being increasing they leave every ranking as it is. All of them are fitted class by class on rows whose label
is known, and stay finite whatever the labels: classes with one positive, or none, are the rule here.
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
"""Share of the line in an isotonic map: what keeps its steps from tying rows."""
SLOPE_SPREAD = 0.5
"""How far slopes of classes lie from the common one, as a share of it: the prior of the logistic map."""
LEAST_SLOPE = 0.01
"""As a share of the common slope; reached by a class whose logits say nothing, or the contrary."""
LOG_SLOPES = (-4.0, 4.0)
Rows = tuple[Floats, NDArray[np.bool_]]  # the logits and the labels of one class's known rows


@dataclass(frozen=True)
class LogitMap:
    """slope x logit + offset; with `steps`, blended with the line through them, which is flat outside.

    `steps` are (logit, calibrated logit), both rising, the first strictly.
    """

    slope: float
    offset: float
    steps: tuple[tuple[float, float], ...] = ()

    def __call__(self, logits: Floats) -> Floats:
        """Any shape; NaN stays NaN."""
        line = self.slope * logits + self.offset
        if not self.steps:
            return line
        at, to = np.array(self.steps).T
        return LINEAR_SHARE * line + (1 - LINEAR_SHARE) * np.interp(logits, at, to)


def fit_maps(method: Method, classes: Mapping[str, Rows]) -> dict[str, LogitMap]:
    """A map for every class by name, fitted on its known rows; there may be none."""
    maps = _FITS[method](list(classes.values()))
    return dict(zip(classes, maps, strict=True))


def fit_temperature(classes: Sequence[Rows]) -> list[LogitMap]:
    """One slope for all classes, no offset: the inverse of a temperature (Guo et al. 2017, section 4.2).

    It minimises the mean over classes with both values of their log-loss, plus (log slope)^2 / 2 over the
    number of rows: a unit normal prior, for logits that say nothing.
    """
    known = [rows for rows in classes if rows[1].any() and not rows[1].all()]
    n_rows = max((len(z) for z, _ in known), default=1)

    def loss(log_slope: float) -> float:
        each = [_log_loss(np.exp(log_slope) * z, positive) for z, positive in known]
        return float(np.mean(each or [0.0])) + log_slope**2 / 2 / n_rows

    found = minimize_scalar(loss, bounds=LOG_SLOPES, method="bounded", options={"xatol": 1e-6})
    return [LogitMap(float(np.exp(found.x)), 0.0)] * len(classes)


def fit_logistic(classes: Sequence[Rows]) -> list[LogitMap]:
    """slope x logit + offset with slope > 0, fitted to Platt's targets under a prior for the slope.

    Platt (1999, section 2.2): a positive's target is (P + 1) / (P + 2), a negative's 1 / (N + 2), as if one
    more positive and one more negative had been seen; that alone keeps the offset finite. The slope is normal
    around the slope common to all classes with SLOPE_SPREAD of it as standard deviation, so that a class with
    five positives mostly borrows it. The common slope is the mean of the classes' own, weighted by how well
    their rows tell them (Fisher information), each found under a normal prior of mean 1 and deviation 1.
    """
    own = [_fit_line(rows, prior=1.0, spread=1.0) for rows in classes]
    told = np.array([_slope_information(rows, line) for rows, line in zip(classes, own, strict=True)])
    slopes = np.array([line.slope for line in own])
    common = float(told @ slopes / told.sum()) if told.sum() > 0 else 1.0
    return [_fit_line(rows, prior=common, spread=SLOPE_SPREAD * common) for rows in classes]


def fit_isotonic(classes: Sequence[Rows]) -> list[LogitMap]:
    """Steps by the pooling of adjacent violators on Platt's targets, with a little of `fit_logistic`'s line.

    Platt's targets keep the steps off 0 and 1. Between two steps the map is straight.
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
    """The line of least log-loss + (slope - prior)^2 / (2 spread^2), a convex problem."""
    z, positive = rows
    if not len(z):
        return LogitMap(prior, 0.0)
    middle, target = float(np.median(z)), _platt_targets(positive)
    centred, ones = z - middle, np.ones_like(z)
    start, least = logit(target.mean()), LEAST_SLOPE * prior
    precision = np.diag([1 / spread**2, 0.0])
    slope, offset = posterior_mode(np.stack([centred, ones]), target, np.array([prior, start]), precision)
    if slope < least:
        slope = least
        (offset,) = posterior_mode(ones[None], target, np.array([offset]), np.zeros((1, 1)), least * centred)
    return LogitMap(float(slope), float(offset - slope * middle))


def _slope_information(rows: Rows, line: LogitMap) -> float:
    """Fisher information of the slope with the offset unknown: the weighted variance of the logits."""
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
    """Both ends of every pooled block, and the logit of its mean target; equal logits are one point."""
    if not len(z):
        return ()
    at, place, counts = np.unique(z, return_inverse=True, return_counts=True)
    means = np.bincount(place, _platt_targets(positive)) / counts
    pooled = isotonic_regression(means, weights=counts)
    ends = np.union1d(pooled.blocks[:-1], pooled.blocks[1:] - 1)
    to = logit(pooled.x[ends])
    return tuple(zip(at[ends].tolist(), to.tolist(), strict=True))


def _log_loss(z: Floats, positive: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(positive, -z, z)).mean())


def f1_threshold(probabilities: Floats) -> float:
    """The threshold of the highest expected F1 for calibrated probabilities (n,) of one class; 0.5 if none.

    It is half of the F1 it reaches (Lipton, Elkan & Naryanaswamy 2014, theorem 1), with expected counts:
    F1 = 2 sum of p called / (rows called + sum of p). No label is used beyond those the calibration was
    fitted on: the threshold with the best F1 on the labels themselves jumps with every positive, and a tail
    class has five of them.
    """
    ranked = np.sort(probabilities)[::-1]
    if not len(ranked):
        return 0.5
    return float(np.max(np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) + ranked.sum())))
