"""The out-of-fold score, defined once."""

import numpy as np
import pandas as pd

from cxrlt.metrics import macro_metric
from cxrlt.predictions.standardise import standardise_by_fold
from cxrlt.predictions.study import has_studies, study_mean


def predicted_rows(scores: pd.DataFrame) -> pd.Index:
    """Ids with a score for every class; an unreadable image has none (NaN)."""
    return scores.index[scores.notna().all(axis=1)]


def oof_scores(scores: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """The scores that are pooled over folds: each fold's standardised per class, without labels."""
    rows = predicted_rows(scores)
    return standardise_by_fold(scores.loc[rows], fold.loc[rows])


def oof_score(scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series, metric: str) -> float:
    """The challenge's metric over the pooled out-of-fold scores; `table` holds the labels."""
    pooled = oof_scores(scores, fold)
    labels = table.loc[pooled.index, list(pooled.columns)].to_numpy(np.float64)
    return macro_metric(metric, labels, pooled.to_numpy())


def study_mean_helps(scores: pd.DataFrame, table: pd.DataFrame, fold: pd.Series, metric: str) -> bool:
    """Whether the out-of-fold score is higher with each image's scores averaged over its study."""
    if not has_studies(table.loc[scores.index]):
        return False
    scores = scores.loc[predicted_rows(scores)]
    averaged = study_mean(scores, table)
    return oof_score(averaged, table, fold, metric) > oof_score(scores, table, fold, metric)
