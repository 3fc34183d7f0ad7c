"""Class weights and margins from class counts; finite also for classes without positives."""

from collections.abc import Sequence

import torch
from torch import Tensor

EFFECTIVE_BETA = 0.9999
"""beta of the effective number of samples (Cui et al., CVPR 2019); the value of the LDAM code."""


def positive_counts(class_counts: Sequence[float] | None) -> Tensor:
    """Return the positives per class (c,), float64, at least 1 each. Raises ValueError for wrong counts."""
    if class_counts is None:
        raise ValueError("this loss needs class_counts: positives per class, in column order")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or not len(counts) or not bool((counts >= 0).all()):
        raise ValueError("class_counts must be one number >= 0 per class")
    return counts.clamp(min=1)


def prevalence(class_counts: Sequence[float] | None, n_samples: int | None, clamped: bool = False) -> Tensor:
    """Return the share of positives per class (c,), float64; `clamped` to [1/T, 1 - 1/T], T = n_samples.

    Raises ValueError if counts or n_samples are missing, or a count is outside [0, n_samples].
    """
    if class_counts is None or not n_samples:
        raise ValueError(
            "this loss or its class_weights need class_counts (positives per class) and n_samples"
        )
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if not bool(((counts >= 0) & (counts <= n_samples)).all()):
        raise ValueError(f"class_counts must be between 0 and n_samples={n_samples}")
    if clamped:
        n_samples = max(n_samples, 2)
        counts = counts.clamp(1, n_samples - 1)
    return counts / n_samples


def effective_number_weights(counts: Tensor) -> Tensor:
    """Return weights (c,), (1 - beta) / (1 - beta^n) scaled to sum c (Cui et al., CVPR 2019)."""
    log_beta = torch.log(torch.tensor(EFFECTIVE_BETA, dtype=counts.dtype))
    weights = 1 / -torch.expm1(counts * log_beta)
    return weights * len(counts) / weights.sum()


def complement_weights(counts: Tensor) -> Tensor:
    """Return weights (c,), 1 - n / SUM n scaled to sum c: the BWCCE of the LMF paper's code."""
    weights = 1 - counts / counts.sum()
    return weights * len(counts) / weights.sum()


def margins(counts: Tensor, max_margin: float) -> Tensor:
    """Return margins (c,), max_margin (n_min / n)^(1/4), largest for rare classes (LDAM, NeurIPS 2019)."""
    return max_margin * (counts.min() / counts) ** 0.25


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Return weights (c,), (n_max / n)^(1/4) scaled to mean 1."""
    weights = (counts.max() / counts) ** 0.25
    return weights / weights.mean()
