"""What a row's study and patient say about it, from scores and counts alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.inputs.table import study_codes
from cxrlt.predictions.study_mean import group_sums, patient_codes

CONTEXT = (
    "lateral",
    "unknown_view",
    "log_images_of_study",
    "log_images_of_patient",
    "no_other_images",
    "no_other_studies",
    "other_images",
    "other_studies",
)
"""In this order: five counts and indicators of the row, then two means of scores, which each class has."""


@dataclass(frozen=True)
class Context:
    """`shared` (n, 6) holds what is the same for every class, `means` (2, c, n) the rest of CONTEXT."""

    shared: NDArray[np.float64]
    means: NDArray[np.float64]

    def for_class(self, c: int) -> NDArray[np.float64]:
        """The columns of CONTEXT for class number c: (n, 8)."""
        return np.hstack([self.shared, self.means[:, c].T])

    def rows(self, chosen: NDArray[np.bool_]) -> "Context":
        return Context(self.shared[chosen], self.means[:, :, chosen])


def context_of(scores: NDArray[np.float64], rows: pd.DataFrame) -> Context:
    """The context of scores (c, n), NaN = not predicted, whose rows stand in the table `rows`.

    Means of scores are 0 where there is nothing to average. A patient's other studies are its images outside
    the row's study; where the patient is unknown there are none, and where the study is, no other images of
    it. Images of another `fold` take no part, if the table has folds.
    """
    study, patient = study_codes(rows), patient_codes(rows)
    n_study, n_patient = (group_sums(codes, np.ones((len(rows), 1))) for codes in (study, patient))
    predicted = ~np.isnan(scores).any(axis=0)[:, None]
    values = np.where(predicted, scores.T, 0.0)
    own = np.hstack([values, predicted])
    of_study = group_sums(study, own)
    other_images, other_studies = of_study - own, group_sums(patient, own) - of_study
    means = [_mean(part[:, :-1], part[:, -1:]) for part in (other_images, other_studies)]
    view = rows["view"].to_numpy()[:, None]
    shared = [view == "lateral", view == "unknown", np.log(n_study), np.log(n_patient)]
    shared += [other_images[:, -1:] < 0.5, other_studies[:, -1:] < 0.5]
    return Context(np.hstack(shared).astype(np.float64), np.stack([mean.T for mean in means]))


def _mean(total: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(total, n, out=np.zeros_like(total), where=n > 0.5)
