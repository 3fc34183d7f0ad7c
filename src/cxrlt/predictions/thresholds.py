"""The probability from which a class is called, for the best F1."""

import numpy as np

from cxrlt.metrics.resampling import Floats


def f1_threshold(probabilities: Floats) -> float:
    """The threshold of the highest expected F1 for calibrated probabilities (n,) of one class; 0.5 if none.

    It is half of the F1 it reaches (Lipton, Elkan & Naryanaswamy 2014, theorem 1), with expected counts:
    F1 = 2 sum of p called / (rows called + sum of p). No label is looked at beyond those the calibration was
    fitted on: the threshold with the best F1 on the labels themselves jumps with every positive, and a tail
    class has five of them.
    """
    ranked = np.sort(probabilities)[::-1]
    if not len(ranked):
        return 0.5
    return float(np.max(np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) + ranked.sum())))
