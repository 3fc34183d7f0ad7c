"""The images of a study share their labels, so their scores may share what they saw."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cxrlt.inputs.study_codes import study_codes

FRONTAL = 0.8
"""Weight of a frontal image in the mean over a study; a lateral one has the rest, an unknown view half."""
ALMOST_NONE = 1e-9


def study_mean(scores: pd.DataFrame, table: pd.DataFrame, frontal: float = FRONTAL) -> pd.DataFrame:
    """Every image's scores replaced by the mean over the images of its study, weighted by their views.

    `scores` has index image_id and a column per class; `table` holds `patient`, `study` and `view` of its
    rows, and `fold` where images of other folds take no part. A frontal image weighs `frontal`, a lateral one
    1 - frontal, an unknown view .5. An image without a prediction (NaN) gets the mean of its study's others.
    An image whose study is unknown stays as it is.
    """
    rows = table.loc[scores.index]
    study = study_codes(rows)
    values = scores.to_numpy(np.float64)
    # not quite 0: a study that has lateral images only is predicted from them
    by_view = {"frontal": frontal, "unknown": 0.5, "lateral": max(1 - frontal, ALMOST_NONE)}
    weights = rows["view"].map(by_view).to_numpy(np.float64)[:, None] * ~np.isnan(values)
    total = group_sums(study, weights)
    summed = group_sums(study, np.nan_to_num(values) * weights)
    mean = np.divide(summed, total, out=np.full_like(values, np.nan), where=total > 0)
    return pd.DataFrame(mean, index=scores.index, columns=scores.columns)


def has_studies(table: pd.DataFrame) -> bool:
    """Whether any study has more than one image."""
    return len(np.unique(study_codes(table))) < len(table)


def disputed_rows(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.bool_]:
    """Which images have another known label than an image of their study: there truth is of images."""
    by_study = table[list(classes)].groupby(study_codes(table), sort=False)
    return (by_study.transform("max") > by_study.transform("min")).any(axis=1).to_numpy()


def patient_codes(rows: pd.DataFrame) -> NDArray[np.int64]:
    """A number per patient; a study without a patient is a patient of its own.

    Where `rows` has a column `fold`, images of another fold are of another patient.
    """
    keys = ["patient", *(["fold"] if "fold" in rows else [])]
    codes = rows.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    return np.where(rows["patient"].isna(), len(rows) + study_codes(rows), codes)


def group_sums(codes: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For every row the sums of `values` (n, c) over the rows that have its number."""
    names, group = np.unique(codes, return_inverse=True)
    ones = np.ones(len(codes))
    members = csr_array((ones, (group, np.arange(len(codes)))), shape=(len(names), len(codes)))
    return (members @ values)[group]
