"""The images of a study share their labels, so their scores may share what they saw."""

import numpy as np
import pandas as pd

VIEW_WEIGHTS = {"frontal": 0.8, "unknown": 0.5, "lateral": 0.2}


def study_mean(scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Every image's scores replaced by the mean over the images of its study, weighted by their views.

    `scores` has index image_id and a column per class; `table` holds `patient`, `study` and `view` of its
    rows. An image without a prediction (NaN) gets the mean of its study's others. An image whose study is
    unknown stays as it is.
    """
    rows = table.loc[scores.index]
    study = _study_codes(rows)
    values = scores.to_numpy(np.float64)
    weights = rows["view"].map(VIEW_WEIGHTS).to_numpy(np.float64)[:, None] * ~np.isnan(values)
    total = pd.DataFrame(weights).groupby(study).transform("sum").to_numpy()
    summed = pd.DataFrame(np.nan_to_num(values) * weights).groupby(study).transform("sum").to_numpy()
    mean = np.divide(summed, total, out=np.full_like(values, np.nan), where=total > 0)
    return pd.DataFrame(mean, index=scores.index, columns=scores.columns)


def has_studies(table: pd.DataFrame) -> bool:
    """Whether any study has more than one image."""
    return len(np.unique(_study_codes(table))) < len(table)


def _study_codes(rows: pd.DataFrame) -> np.ndarray:
    """A number per study; study names may repeat between patients."""
    codes = rows.groupby(["patient", "study"], sort=False, dropna=False).ngroup().to_numpy(copy=True)
    alone = rows["study"].isna().to_numpy()
    codes[alone] = -1 - np.arange(alone.sum())
    return codes
