"""The out-of-fold score, defined once."""

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge, Task
from cxrlt.metrics import macro_metric
from cxrlt.predictions.probabilities import probabilities
from cxrlt.predictions.standardise import standardise_by_fold


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
