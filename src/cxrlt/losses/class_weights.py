"""Numbers per class that losses take from the class counts; all are finite for a class without positives."""

from collections.abc import Sequence

import torch
from torch import Tensor

EFFECTIVE_BETA = 0.9999


def positive_counts(class_counts: Sequence[float] | None) -> Tensor:
    """Positives per class (c,), float64, at least 1 each. Raises ValueError when they are not given."""
    if class_counts is None:
        raise ValueError("class_counts (positives per class, in column order) are needed by this loss")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or not len(counts) or not bool((counts >= 0).all()):
        raise ValueError("class_counts must be one number >= 0 for every class")
    return counts.clamp(min=1)


def prevalence(class_counts: Sequence[float] | None, n_samples: int | None, clamped: bool = False) -> Tensor:
    """Share of positives per class (c,), float64; `clamped` to [1/T, 1 - 1/T], T = n_samples.

    Raises ValueError when counts or samples are not given, or a count exceeds the samples.
    """
    if class_counts is None or not n_samples:
        raise ValueError(
            "class_counts (positives per class) and n_samples are needed by this loss or its class_weights"
        )
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if not bool(((counts >= 0) & (counts <= n_samples)).all()):
        raise ValueError(f"class_counts must lie between 0 and n_samples={n_samples}")
    if clamped:
        n_samples = max(n_samples, 2)
        counts = counts.clamp(1, n_samples - 1)
    return counts / n_samples


def effective_number_weights(counts: Tensor) -> Tensor:
    """(1 - beta) / (1 - beta^n), scaled to sum c (Cui et al., CVPR 2019; beta .9999): (c,)."""
    log_beta = torch.log(torch.tensor(EFFECTIVE_BETA, dtype=counts.dtype))
    weights = 1 / -torch.expm1(counts * log_beta)
    return weights * len(counts) / weights.sum()


def margins(counts: Tensor, max_margin: float) -> Tensor:
    """max_margin (n_min / n)^(1/4): the rarest class has the largest margin: (c,)."""
    return max_margin * (counts.min() / counts) ** 0.25


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """(n_max / n)^(1/4), scaled to mean 1: (c,)."""
    weights = (counts.max() / counts) ** 0.25
    return weights / weights.mean()
