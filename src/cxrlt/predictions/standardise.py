"""One scale for logits of different folds and models, found without labels.

Folds are trained apart, so the same logit does not mean the same in two of them. Minus the median, over the
interquartile range of a fold's own out-of-fold logits, it does; the constants then serve that fold's dev and
test logits too.

With one class per row the logits of a row are compared with each other, which a scale per class would spoil:
there the constants change nothing.

Logits become probabilities once, at the very end; what is averaged before that are logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from pydantic import model_validator
from scipy.special import expit, log_softmax, softmax

from cxrlt.artifacts import Artifact, read_model, write_model
from cxrlt.challenges.base import Challenge, Task
from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.provenance import MadeOf

CONSTANTS = "constants.json"


@dataclass(frozen=True)
class Constants:
    """Median and spread of each class's logits; both have the class names as index."""

    median: pd.Series
    iqr: pd.Series

    def apply(self, logits: pd.DataFrame) -> pd.DataFrame:
        """(logit - median) / iqr per class, in float64; NaN stays NaN."""
        return (logits.astype(np.float64) - self.median) / self.iqr

    def invert(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Scores back to logits per class."""
        return scores * self.iqr + self.median


class ConstantsRecord(Artifact):
    """constants.json: median and interquartile range by class, and what their logits were made of."""

    median: dict[str, float]
    iqr: dict[str, float]
    made_of: MadeOf

    @model_validator(mode="after")
    def _usable(self) -> Self:
        most = float(np.finfo(np.float32).max)  # which the logits they are of do not exceed
        known = [*self.median.values(), *self.iqr.values()]
        if set(self.median) != set(self.iqr) or not all(abs(value) <= most for value in known):
            raise ValueError("it does not hold a finite median and range for every class")
        if not all(value > 0 for value in self.iqr.values()):
            raise ValueError("ranges must be above 0")
        return self


def constants_of(logits: pd.DataFrame, task: Task = "multi_label") -> Constants:
    """The constants of these logits, rows without a prediction left out; 0 and 1 with one class per row.

    Where the interquartile range is 0 the standard deviation replaces it, and 1 where that is 0 too.
    """
    if task == "single_label":
        return Constants(pd.Series(0.0, logits.columns), pd.Series(1.0, logits.columns))
    low, median, high = (logits.quantile(q).astype(np.float64) for q in (0.25, 0.5, 0.75))
    iqr = (high - low).where(lambda spread: spread > 0, logits.std(ddof=0).astype(np.float64))
    return Constants(median.fillna(0.0), iqr.where(iqr > 0, 1.0))


def mean_constants(parts: Sequence[Constants]) -> Constants:
    """Mean of medians and of ranges: the scale that averaged scores are mapped back to."""
    share = 1 / len(parts)
    return Constants(sum(share * part.median for part in parts), sum(share * part.iqr for part in parts))


def standardise_by_fold(scores: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """Scores of every fold standardised with that fold's own constants; `fold` has the same index."""
    parts = [constants_of(part).apply(part) for _, part in scores.groupby(fold, sort=False)]
    return pd.concat(parts).loc[scores.index]


def write_constants(directory: Path, oof_logits: pd.DataFrame, task: Task, made_of: MadeOf) -> None:
    """Write the constants of a fold's out-of-fold logits beside them, with what these were made of."""
    constants = constants_of(oof_logits, task)
    values = {"median": constants.median.to_dict(), "iqr": constants.iqr.to_dict()}
    write_model(directory / CONSTANTS, ConstantsRecord(**values, made_of=made_of))


def read_constants(directory: Path, classes: Sequence[str], made_by: str) -> tuple[Constants, MadeOf]:
    """The constants of a fold, in the order of `classes`, and what they were made of.

    Raises UserError naming the command `made_by` if the file is missing, damaged or of other classes.
    """
    record = read_model(directory / CONSTANTS, ConstantsRecord, made_by)
    if set(record.median) != set(classes):
        raise UserError(f"{directory / CONSTANTS} is of other classes. Make it again with: {made_by} --force")
    found = (pd.Series(values, dtype=np.float64)[list(classes)] for values in (record.median, record.iqr))
    return Constants(*found), record.made_of


def comparable_logits(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Logits as they are compared and averaged; NaN stays NaN.

    With one class per row a constant added to a row's logits says nothing. It is taken out (log-softmax), so
    that only what a model says is kept, in numbers that single precision holds.
    """
    if task == "multi_label":
        return logits
    return _per_row(log_softmax, logits)


def probabilities(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """In float64: the sigmoid of every logit, or with one class per row its softmax; NaN stays NaN."""
    if task == "multi_label":
        return expit(logits.astype(np.float64))
    return _per_row(softmax, logits)


def _per_row(function: Callable[..., np.ndarray], logits: pd.DataFrame) -> pd.DataFrame:
    values = function(logits.to_numpy(np.float64), axis=1)
    return pd.DataFrame(values, index=logits.index, columns=logits.columns)


def predicted_rows(scores: pd.DataFrame) -> pd.Index:
    """Ids with a score for every class; an unreadable image has none (NaN)."""
    return scores.index[scores.notna().all(axis=1)]


def oof_scores(scores: pd.DataFrame, fold: pd.Series, task: Task) -> pd.DataFrame:
    """The scores that are pooled over folds, without looking at labels.

    Each fold's are standardised per class; with one class per row they are softmax probabilities, which folds
    share as their scale.
    """
    rows = predicted_rows(scores)
    if task == "single_label":
        return probabilities(scores.loc[rows], task)
    return standardise_by_fold(scores.loc[rows], fold.loc[rows])


def score_of(challenge: Challenge, pooled: pd.DataFrame, table: pd.DataFrame) -> float:
    """The challenge's metric over scores of one scale, all rows predicted; `table` holds the labels."""
    labels = table.loc[pooled.index, list(pooled.columns)].to_numpy(np.float64)
    return macro_metric(challenge.metric, labels, pooled.to_numpy())
