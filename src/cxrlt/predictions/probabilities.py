"""From logits to probabilities, once, at the very end; what is averaged before that are logits."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.special import expit, log_softmax, softmax

from cxrlt.challenges.base import Task


def comparable_logits(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Logits as they are compared and averaged; NaN stays NaN.

    With one class per row a constant added to a row's logits says nothing. It is taken out (log-softmax), so
    that only what a model says is kept, in numbers that single precision holds.
    """
    if task == "multi_label":
        return logits
    return _per_row(log_softmax, logits)


def probabilities(logits: pd.DataFrame, task: Task) -> pd.DataFrame:
    """In float64: the sigmoid of every logit, or with one class per row its softmax; NaN stays NaN."""
    if task == "multi_label":
        return expit(logits.astype(np.float64))
    return _per_row(softmax, logits)


def _per_row(function: Callable[..., np.ndarray], logits: pd.DataFrame) -> pd.DataFrame:
    values = function(logits.to_numpy(np.float64), axis=1)
    return pd.DataFrame(values, index=logits.index, columns=logits.columns)
