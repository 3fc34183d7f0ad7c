"""Numbers per class that losses take from the class counts; all are finite for a class without positives."""

from collections.abc import Sequence

import torch
from torch import Tensor


def positive_counts(class_counts: Sequence[float] | None) -> Tensor:
    """Positives per class (c,), float32, at least 1 each. Raises ValueError when they are not given."""
    if class_counts is None:
        raise ValueError("class_counts (positives per class, in column order) are needed by this loss")
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    if counts.ndim != 1 or not len(counts) or not bool((counts >= 0).all()):
        raise ValueError("class_counts must be one number >= 0 for every class")
    return counts.clamp(min=1)


def class_prevalence(
    class_counts: Sequence[float] | None, n_samples: int | None, inner: bool = False
) -> Tensor:
    """Share of positives per class (c,), float32; with `inner` kept within [1/T, 1 - 1/T], T = n_samples.

    Raises ValueError when the counts are not given or exceed the samples.
    """
    if class_counts is None or not n_samples:
        raise ValueError(
            "class_counts (positives per class) and n_samples are needed for class-dependent weights"
        )
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    if not bool(((counts >= 0) & (counts <= n_samples)).all()):
        raise ValueError(f"class_counts must lie between 0 and n_samples={n_samples}")
    if inner:
        counts = counts.clamp(1, max(n_samples - 1, 1))
        return counts / max(n_samples, 2)
    return counts / n_samples
