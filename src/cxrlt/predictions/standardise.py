"""Standardise logits, so that folds and models share one scale. No labels are used.

Folds are trained separately, so the same logit can mean different things in two folds. Each fold therefore
subtracts the median of its own out-of-fold logits and divides by their interquartile range, per class. The
same two constants standardise the fold's dev and test logits.

In single-label tasks the logits of a row are compared with each other, and a scale per class would change the
order within the row. The constants are then 0 and 1.

Logits become probabilities only once, at the end. Averages are averages of logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from pydantic import model_validator
from scipy.special import expit, log_softmax, softmax

from cxrlt.artifacts import Artifact, read_artifact, write_artifact
from cxrlt.challenges.base import Challenge, Task
from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.provenance import Provenance

CONSTANTS = "constants.json"


@dataclass(frozen=True)
class Constants:
    """Median and interquartile range of the logits of each class; the index of both is the class names."""

    median: pd.Series
    iqr: pd.Series

    def apply(self, logits: pd.DataFrame) -> pd.DataFrame:
        """Return (logit - median) / iqr per class (index image_id, one float64 column per class)."""
        return (logits.astype(np.float64) - self.median) / self.iqr

    def invert(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return the logits of standardised scores (index image_id, one column per class)."""
        return scores * self.iqr + self.median


class ConstantsRecord(Artifact):
    """constants.json: median and interquartile range by class, with the provenance of their logits."""

    median: dict[str, float]
    iqr: dict[str, float]
    provenance: Provenance

    @model_validator(mode="after")
    def _usable(self) -> Self:
        max_value = float(np.finfo(np.float32).max)  # logits are float32
        known = [*self.median.values(), *self.iqr.values()]
        if set(self.median) != set(self.iqr) or not all(abs(value) <= max_value for value in known):
            raise ValueError("it does not have a finite median and range for every class")
        if not all(value > 0 for value in self.iqr.values()):
            raise ValueError("ranges must be above 0")
        return self


def fit_constants(logits: pd.DataFrame, task: Task = "multi_label") -> Constants:
    """Return the constants of logits (index image_id, one column per class); NaN rows do not count.

    A single-label task has the constants 0 and 1. An interquartile range of 0 is replaced by the standard
    deviation, and by 1 if this is 0 too.
    """
    if task == "single_label":
        return Constants(pd.Series(0.0, logits.columns), pd.Series(1.0, logits.columns))
    low, median, high = (logits.quantile(q).astype(np.float64) for q in (0.25, 0.5, 0.75))
    iqr = (high - low).where(lambda spread: spread > 0, logits.std(ddof=0).astype(np.float64))
    return Constants(median.fillna(0.0), iqr.where(iqr > 0, 1.0))


def mean_constants(parts: Sequence[Constants]) -> Constants:
    """Return the mean median and the mean range: the scale that averaged scores are mapped back to."""
    share, zero = 1 / len(parts), pd.Series(0.0, parts[0].median.index)
    return Constants(
        sum((share * part.median for part in parts), start=zero),
        sum((share * part.iqr for part in parts), start=zero),
    )


def standardise_by_fold(scores: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """Standardise the scores of each fold with the fold's own constants.

    `scores` has the index image_id and one column per class, like the result; `fold` has the same index.
    """
    parts = [fit_constants(part).apply(part) for _, part in scores.groupby(fold, sort=False)]
    return pd.concat(parts).loc[scores.index]


def write_constants(directory: Path, oof_logits: pd.DataFrame, task: Task, provenance: Provenance) -> None:
    """Write constants.json for the out-of-fold logits (index image_id, one column per class) of a fold."""
    constants = fit_constants(oof_logits, task)
    values = {"median": constants.median.to_dict(), "iqr": constants.iqr.to_dict()}
    write_artifact(directory / CONSTANTS, ConstantsRecord(**values, provenance=provenance))


def read_constants(directory: Path, classes: Sequence[str], made_by: str) -> tuple[Constants, Provenance]:
    """Return the constants of a fold, in the order of `classes`, and their provenance.

    Raises UserError with the command `made_by` if the file is missing, damaged or has other classes.
    """
    record = read_artifact(directory / CONSTANTS, ConstantsRecord, made_by)
    if set(record.median) != set(classes):
        raise UserError(f"{directory / CONSTANTS} has other classes. Renew it with: {made_by} --force")
    found = (pd.Series(values, dtype=np.float64)[list(classes)] for values in (record.median, record.iqr))
    return Constants(*found), record.provenance


def comparable_logits(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return logits (index image_id, one column per class) in the form in which models can be averaged.

    In single-label tasks a constant added to a row changes no probability. Log-softmax removes this constant.
    Multi-label logits are returned unchanged. NaN stays NaN.
    """
    if task == "multi_label":
        return logits
    return _per_row(log_softmax, logits)


def to_probabilities(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the sigmoid of every logit, or the softmax of every row in single-label tasks.

    Logits and probabilities have the index image_id and one column per class. The result is float64; NaN
    stays NaN.
    """
    if task == "multi_label":
        return expit(logits.astype(np.float64))
    return _per_row(softmax, logits)


def _per_row(function: Callable[..., np.ndarray], logits: pd.DataFrame) -> pd.DataFrame:
    values = function(logits.to_numpy(np.float64), axis=1)
    return pd.DataFrame(values, index=logits.index, columns=logits.columns)


def predicted_ids(scores: pd.DataFrame) -> pd.Index:
    """Return the ids of the rows without NaN in `scores` (index image_id); an unreadable image has NaN."""
    return scores.index[scores.notna().all(axis=1)]


def pool_oof_scores(scores: pd.DataFrame, fold: pd.Series, task: Task) -> pd.DataFrame:
    """Return out-of-fold scores on one scale, so that all folds can be scored together. No labels are used.

    `scores` has the index image_id and one column per class; `fold` is by id. The scores of each fold are
    standardised per class; in single-label tasks they become softmax probabilities. Rows with NaN are
    dropped.
    """
    rows = predicted_ids(scores)
    if task == "single_label":
        return to_probabilities(scores.loc[rows], task)
    return standardise_by_fold(scores.loc[rows], fold.loc[rows])


def macro_score(challenge: Challenge, pooled: pd.DataFrame, table: pd.DataFrame) -> float:
    """Return the challenge's metric of pooled scores (index image_id, one column per class, no NaN).

    `table` has the labels, by id.
    """
    labels = table.loc[pooled.index, list(pooled.columns)].to_numpy(np.float64)
    return macro_metric(challenge.metric, labels, pooled.to_numpy())
