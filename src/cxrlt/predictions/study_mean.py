"""Average scores over the images of a study, because the images of a study share their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from cxrlt.artifacts import Artifact, read_artifact
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.table import study_codes
from cxrlt.predictions.standardise import macro_score, pool_oof_scores, predicted_ids
from cxrlt.provenance import Provenance

DEFAULT_FRONTAL_WEIGHT = 0.8
"""Weight of a frontal image in the mean over a study. A lateral image has the weight 1 - this, an unknown
view 0.5. With "auto", the out-of-fold score decides between this weight and no mean."""
MIN_LATERAL_WEIGHT = 1e-9
"""Used for a frontal weight of 1, so that a study with lateral images only still has a mean."""


def study_mean(
    scores: pd.DataFrame, table: pd.DataFrame, frontal_weight: float | None = DEFAULT_FRONTAL_WEIGHT
) -> pd.DataFrame:
    """Replace the scores of every image by the weighted mean over the images of its study.

    `scores` has the index image_id and one column per class, like the result. `table` has the columns
    `patient`, `study` and `view`; if it has `fold`, only images of the same fold are averaged. A frontal
    image has the weight `frontal_weight`, a lateral one 1 - frontal_weight, an unknown view 0.5; None
    averages nothing. An image with NaN gets the mean of the other images. An image of an unknown study stays
    unchanged.
    """
    if frontal_weight is None:
        return scores
    rows = table.loc[scores.index]
    study = study_codes(rows)
    values = scores.to_numpy(np.float64)
    by_view = {
        "frontal": frontal_weight,
        "unknown": 0.5,
        "lateral": max(1 - frontal_weight, MIN_LATERAL_WEIGHT),
    }
    weights = rows["view"].map(by_view).to_numpy(np.float64)[:, None] * ~np.isnan(values)
    total = group_sums(study, weights)
    summed = group_sums(study, np.nan_to_num(values) * weights)
    mean = np.divide(summed, total, out=np.full_like(values, np.nan), where=total > 0)
    return pd.DataFrame(mean, index=scores.index, columns=scores.columns)


def has_studies(table: pd.DataFrame) -> bool:
    """Return whether any study of a table (columns `patient` and `study`) has more than one image."""
    return len(np.unique(study_codes(table))) < len(table)


def conflicting_rows(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return a mask (n_rows,): images that have another known label than an image of the same study.

    Where there are such rows, labels belong to images and not to studies.
    """
    by_study = table[list(classes)].groupby(study_codes(table), sort=False)
    return (by_study.transform("max") > by_study.transform("min")).any(axis=1).to_numpy()


def patient_codes(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return a patient code per row (n_rows,). A study without a patient counts as a separate patient.

    If `rows` has a column `fold`, images in different folds count as different patients.
    """
    keys = ["patient", *(["fold"] if "fold" in rows else [])]
    codes = rows.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    return np.where(rows["patient"].isna(), len(rows) + study_codes(rows), codes)


def group_sums(codes: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for every row the sum of `values` (n_rows, n_columns) over rows with the same code (n_rows,)."""
    names, group = np.unique(codes, return_inverse=True)
    ones = np.ones(len(codes))
    members = csr_array((ones, (group, np.arange(len(codes)))), shape=(len(names), len(codes)))
    return (members @ values)[group]


StudyMeanOption = Literal["auto", "on", "off", "search"]
CANDIDATE_WEIGHTS: Mapping[str, tuple[float | None, ...]] = {
    "auto": (None, DEFAULT_FRONTAL_WEIGHT),
    "search": (None, DEFAULT_FRONTAL_WEIGHT, 0.7, 0.9, 0.6, 1.0, 0.5),
}
"""Weights of frontal images to try; None: no mean. On equal scores the first one wins."""

FrontalWeight = Annotated[float, Field(ge=0, le=1)]


class StudyMean(Artifact):
    """The chosen weight of frontal images in the mean over a study; None: no mean.

    `final` is for dev and test. `by_fold[k]` is for the out-of-fold rows of fold k and was chosen without
    them. `why` is the reason, printed after the choice.
    """

    option: StudyMeanOption
    final: FrontalWeight | None
    by_fold: tuple[FrontalWeight | None, ...]
    why: str

    def for_fold(self, fold: int | None) -> float | None:
        """Return the weight that was chosen without this fold; fold None: on all rows."""
        return self.final if fold is None else self.by_fold[fold]

    @property
    def text(self) -> str:
        """The choice in words, with the reason."""
        by_fold = f", by fold {listing(map(_ratio, self.by_fold))}"
        folds = "" if set(self.by_fold) == {self.final} else by_fold
        if self.final is None:
            return f"not averaged over studies{folds} ({self.why})"
        return f"averaged over studies, frontal:lateral {_ratio(self.final)}{folds} ({self.why})"


class StudyMeanRecord(StudyMean):
    """study_mean.json: the choice, with the provenance of the predictions, labels and studies behind it."""

    provenance: Provenance


def load_study_mean(path: Path, option: str, provenance: Provenance, n_folds: int) -> StudyMean | None:
    """Return the choice in `path`, or None if it is outdated or damaged. Choosing again takes little time."""
    try:
        kept = read_artifact(path, StudyMeanRecord, "cxrlt evaluate")
    except UserError:
        return None
    is_current = (kept.option, kept.provenance, len(kept.by_fold)) == (option, provenance, n_folds)
    return StudyMean(**kept.model_dump(exclude={"provenance"})) if is_current else None


def fixed_study_mean(option: StudyMeanOption, n_folds: int, why: str) -> StudyMean:
    """Return a choice without evidence: the default weight if the option is "on", else no mean."""
    weight = DEFAULT_FRONTAL_WEIGHT if option == "on" else None
    return StudyMean(option=option, final=weight, by_fold=(weight,) * n_folds, why=why)


def choose_study_mean(
    challenge: Challenge, scores: pd.DataFrame, table: pd.DataFrame, option: StudyMeanOption
) -> StudyMean:
    """Choose the candidate weight with the best out-of-fold score, and for every fold without its rows.

    `scores` (index image_id, one column per class) and `table` have all out-of-fold rows; `table` also has
    `fold` and the labels. If images of the same study differ in labels, nothing is averaged, unless the
    option is "on".
    """
    n_folds = int(table["fold"].max()) + 1
    if option not in CANDIDATE_WEIGHTS:
        return fixed_study_mean(option, n_folds, "as requested")
    if not has_studies(table):
        return fixed_study_mean(option, n_folds, "no study has more than one image")
    conflicting = table[conflicting_rows(table, challenge.classes)]
    # the labels of fold k must not influence the choice for fold k
    has_conflict = [(conflicting["fold"] != excluded).any() for excluded in (*range(n_folds), None)]
    conflict_note = f"{len(conflicting):,} images have other labels than another image of their study"
    if all(has_conflict):
        return fixed_study_mean(option, n_folds, conflict_note)
    weights = CANDIDATE_WEIGHTS[option]
    values = _candidate_scores(challenge, scores.loc[predicted_ids(scores)], table, weights, n_folds)
    *by_fold, final = (
        None if conflict else weights[best]
        for best, conflict in zip(values.argmax(axis=0), has_conflict, strict=True)
    )
    without_mean, with_mean = values[0, -1], values[1:, -1].max()
    why = f"out-of-fold {challenge.metric} {with_mean:.4f} with the mean, {without_mean:.4f} without"
    why = conflict_note if len(conflicting) else why
    return StudyMean(option=option, final=final, by_fold=tuple(by_fold), why=why)


def _candidate_scores(
    challenge: Challenge,
    scores: pd.DataFrame,
    table: pd.DataFrame,
    weights: tuple[float | None, ...],
    n_folds: int,
) -> np.ndarray:
    """Return scores (n_weights, n_folds + 1): without each fold's rows, and of all rows. -inf: undefined."""
    fold = table.loc[scores.index, "fold"]
    values = np.empty((len(weights), n_folds + 1))
    for i, frontal_weight in enumerate(weights):
        pooled = pool_oof_scores(study_mean(scores, table, frontal_weight), fold, challenge.task)
        for excluded in range(n_folds):
            values[i, excluded] = macro_score(challenge, pooled[fold != excluded], table)
        values[i, -1] = macro_score(challenge, pooled, table)
    return np.nan_to_num(values, nan=-np.inf)


def _ratio(frontal_weight: float | None) -> str:
    return "none" if frontal_weight is None else f"{10 * frontal_weight:g}:{10 - 10 * frontal_weight:g}"
