"""The score of the ODIR-2019 challenge."""

import numpy as np
from numpy.typing import ArrayLike

from cxrlt.metrics.ranking import auroc, validate_arrays


def odir_score(targets: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Return kappa, F1, AUC and their mean, the score, of (n, c) targets and probabilities.

    As in the evaluation program of the challenge, the labels of all classes are one list of zeros and ones.
    Kappa (unweighted) and F1 compare it with probabilities > 0.5; F1 is the micro mean over zeros and ones,
    which is the accuracy. Unknown labels (NaN) are ignored. Raises ValueError as `average_precision`.
    """
    targets, probabilities = validate_arrays(targets, probabilities)
    known = ~np.isnan(targets)
    truth, probability = targets[known], probabilities[known]
    accuracy = float(((probability > 0.5) == truth).mean())
    share, predicted_share = truth.mean(), (probability > 0.5).mean()
    by_chance = share * predicted_share + (1 - share) * (1 - predicted_share)
    kappa = float((accuracy - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")
    auc = float(auroc(truth[:, None], probability[:, None])[0])
    return {"score": (kappa + accuracy + auc) / 3, "kappa": kappa, "F1": accuracy, "AUC": auc}
