"""The images of a study share their labels, so their scores may share what they saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from cxrlt.artifacts import Artifact, read_model
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.table import study_codes
from cxrlt.predictions.standardise import oof_scores, predicted_rows, score_of
from cxrlt.provenance import MadeOf

FRONTAL = 0.8
"""Weight of a frontal image in the mean over a study; a lateral one has the rest, an unknown view half."""
ALMOST_NONE = 1e-9


def study_mean(scores: pd.DataFrame, table: pd.DataFrame, frontal: float | None = FRONTAL) -> pd.DataFrame:
    """Every image's scores replaced by the mean over the images of its study, weighted by their views.

    `scores` has index image_id and a column per class; `table` holds `patient`, `study` and `view` of its
    rows, and `fold` where images of other folds take no part. A frontal image weighs `frontal`, a lateral one
    1 - frontal, an unknown view .5; with None the scores stay as they are. An image without a prediction
    (NaN) gets the mean of its study's others. An image whose study is unknown stays as it is.
    """
    if frontal is None:
        return scores
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


StudyMeanOption = Literal["auto", "on", "off", "search"]
CANDIDATES: Mapping[str, tuple[float | None, ...]] = {
    "auto": (None, FRONTAL),
    "search": (None, FRONTAL, 0.7, 0.9, 0.6, 1.0, 0.5),
}
"""Weights of frontal images that are tried, None for no mean; of equal ones the first is taken."""


Share = Annotated[float, Field(ge=0, le=1)]


class StudyMean(Artifact):
    """The weight of frontal images in the mean over a study (lateral ones have the rest); None: no mean.

    `final` serves dev and test. `by_fold[k]` serves the out-of-fold rows of fold k and was chosen without
    them. `why` is a sentence's part.
    """

    option: StudyMeanOption
    final: Share | None
    by_fold: tuple[Share | None, ...]
    why: str

    def for_fold(self, fold: int | None) -> float | None:
        """What was chosen without that fold; None: on all rows."""
        return self.final if fold is None else self.by_fold[fold]

    @property
    def text(self) -> str:
        by_fold = f", by fold {listing(map(_ratio, self.by_fold))}"
        folds = "" if set(self.by_fold) == {self.final} else by_fold
        if self.final is None:
            return f"not averaged over studies{folds} ({self.why})"
        return f"averaged over studies, frontal:lateral {_ratio(self.final)}{folds} ({self.why})"


class StudyMeanRecord(StudyMean):
    """study_mean.json: a choice, and the out-of-fold predictions, labels and studies it was made on."""

    made_of: MadeOf


def kept_study_mean(path: Path, option: str, made_of: MadeOf, n_folds: int) -> StudyMean | None:
    """The choice in `path`; None if it is of something else, or damaged: choosing again takes little time."""
    try:
        kept = read_model(path, StudyMeanRecord, "cxrlt evaluate")
    except UserError:
        return None
    is_current = (kept.option, kept.made_of, len(kept.by_fold)) == (option, made_of, n_folds)
    return StudyMean(**kept.model_dump(exclude={"made_of"})) if is_current else None


def fixed_study_mean(option: StudyMeanOption, n_folds: int, why: str) -> StudyMean:
    """On if the option says so, else off."""
    share = FRONTAL if option == "on" else None
    return StudyMean(option=option, final=share, by_fold=(share,) * n_folds, why=why)


def choose_study_mean(
    challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, option: StudyMeanOption
) -> StudyMean:
    """The best of CANDIDATES by the out-of-fold score, for every fold without its rows.

    `scores` and `table` are those of all out-of-fold rows; `table` holds `fold` and the labels. Nothing is
    averaged where the images of a study differ in labels, unless the option is "on".
    """
    n_folds = int(table["fold"].max()) + 1
    if option not in CANDIDATES:
        return fixed_study_mean(option, n_folds, "as asked for")
    if not has_studies(table):
        return fixed_study_mean(option, n_folds, "no study has two images")
    disputed = table[disputed_rows(table, challenge.classes)]
    # fold k's own labels have no say in what serves fold k
    per_image = [(disputed["fold"] != without).any() for without in (*range(n_folds), None)]
    of_images = f"{len(disputed):,} images differ in labels from others of their study: truth is of images"
    if all(per_image):
        return fixed_study_mean(option, n_folds, of_images)
    values = _values(challenge, scores.loc[predicted_rows(scores)], table, CANDIDATES[option], n_folds)
    *by_fold, final = (
        None if off else CANDIDATES[option][place]
        for place, off in zip(values.argmax(axis=0), per_image, strict=True)
    )
    without, with_mean = values[0, -1], values[1:, -1].max()
    why = f"out-of-fold {challenge.metric} {with_mean:.4f} with the mean, {without:.4f} without"
    why = of_images if len(disputed) else why
    return StudyMean(option=option, final=final, by_fold=tuple(by_fold), why=why)


def _values(
    challenge: Challenge,
    scores: pd.DataFrame,
    table: pd.DataFrame,
    candidates: tuple[float | None, ...],
    n_folds: int,
) -> np.ndarray:
    """Scores (candidates, folds + 1): of the rows outside each fold, and of all rows; -inf if undefined."""
    fold = table.loc[scores.index, "fold"]
    values = np.empty((len(candidates), n_folds + 1))
    for place, frontal in enumerate(candidates):
        pooled = oof_scores(study_mean(scores, table, frontal), fold, challenge.task)
        for without in range(n_folds):
            values[place, without] = score_of(challenge, pooled[fold != without], table)
        values[place, -1] = score_of(challenge, pooled, table)
    return np.nan_to_num(values, nan=-np.inf)


def _ratio(frontal: float | None) -> str:
    return "none" if frontal is None else f"{10 * frontal:g}:{10 - 10 * frontal:g}"
