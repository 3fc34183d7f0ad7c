"""Context features of a row: its view, and counts and scores of its study and patient. No labels are used."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.inputs.table import study_codes
from cxrlt.predictions.study_mean import group_sums, patient_codes

CONTEXT_FEATURES = (
    "lateral",
    "unknown_view",
    "log_images_of_study",
    "log_images_of_patient",
    "no_other_images",
    "no_other_studies",
    "other_images",
    "other_studies",
)
"""Names and order: six features of the row, then two means of scores, which differ by class."""


@dataclass(frozen=True)
class Context:
    """Context features: `shared` (n_rows, 6) of all classes and `means` (2, n_classes, n_rows) per class."""

    shared: NDArray[np.float64]
    means: NDArray[np.float64]

    def for_class(self, c: int) -> NDArray[np.float64]:
        """Return the features (n_rows, 8) of class number c, in the order of CONTEXT_FEATURES."""
        return np.hstack([self.shared, self.means[:, c].T])

    def select(self, mask: NDArray[np.bool_]) -> "Context":
        """Return the rows where `mask` (n_rows,) is true."""
        return Context(self.shared[mask], self.means[:, :, mask])


def compute_context(scores: NDArray[np.float64], rows: pd.DataFrame) -> Context:
    """Compute the context of scores (n_classes, n_rows; NaN = not predicted) for the table rows `rows`.

    "Other images" are the other images of the row's study, "other studies" are the patient's images outside
    this study. Means of scores are 0 if there are no such images, as for an unknown study or patient. If the
    table has a column `fold`, images in other folds do not count.
    """
    study, patient = study_codes(rows), patient_codes(rows)
    n_study, n_patient = (group_sums(codes, np.ones((len(rows), 1))) for codes in (study, patient))
    predicted = ~np.any(np.isnan(scores), axis=0)[:, None]
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
