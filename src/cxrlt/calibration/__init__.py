"""Options of calibration, in a module that the command line imports without scipy."""

from typing import Literal, get_args

Method = Literal["temperature", "logistic", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Methods from the simplest to the most flexible."""
Variant = Literal["raw", "calibrated", "f1"]
"""The sigmoid of the logit, of the calibrated logit, or of the calibrated logit shifted so that the threshold
with the best F1 becomes a probability of 0.5."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)
