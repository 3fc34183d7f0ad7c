"""What may be chosen about probabilities, where the command line can read it without waiting for scipy."""

from typing import Literal, get_args

Method = Literal["temperature", "logistic", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From the simplest to the most flexible."""
Variant = Literal["raw", "calibrated", "f1"]
"""The sigmoid of a logit as it is, of the calibrated logit, or of that one with the threshold moved to 0."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)
