"""The out-of-fold score, defined once."""

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge, Task
from cxrlt.metrics import macro_metric
from cxrlt.predictions.probabilities import probabilities
from cxrlt.predictions.standardise import standardise_by_fold
from cxrlt.predictions.study import has_studies, study_mean


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


def oof_score(challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series) -> float:
    """The challenge's metric over the pooled out-of-fold scores; `table` holds the labels."""
    pooled = oof_scores(scores, fold, challenge.task)
    labels = table.loc[pooled.index, list(pooled.columns)].to_numpy(np.float64)
    return macro_metric(challenge.metric, labels, pooled.to_numpy())


def study_mean_helps(
    challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series
) -> bool:
    """Whether the out-of-fold score is higher with each image's scores averaged over its study."""
    if not has_studies(table.loc[scores.index]):
        return False
    scores = scores.loc[predicted_rows(scores)]
    averaged = study_mean(scores, table)
    return oof_score(challenge, averaged, table, fold) > oof_score(challenge, scores, table, fold)
