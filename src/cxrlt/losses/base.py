"""What every multi-label loss shares: the call, the mask, the reduction, the precision."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["mean", "batchmean", "sum"]
ClassWeights = Literal["none", "prevalence"]


class MultiLabelLoss(nn.Module, ABC):
    """A loss over independent classes, called as `loss(logits, targets) -> scalar`.

    `logits` are (n, c) of any float type; `targets` are (n, c) in [0, 1], soft labels included; a NaN
    target is unknown and contributes neither value nor gradient. Arithmetic is float32 under any autocast
    (float64 stays float64).

    `reduction` is "batchmean" (sum over classes, mean over rows), "mean" (over known entries) or "sum".
    `class_counts` are the positives of each class in column order, `n_samples` the rows they were counted in.
    `class_weights="prevalence"` weighs positives by e^(1 - pi) and negatives by e^pi, where pi is the share
    of positives (CheXFusion, CXR-LT 2023). Raises ValueError for a wrong option.
    """

    positive_weight: Tensor | None
    negative_weight: Tensor | None

    def __init__(
        self,
        *,
        class_weights: ClassWeights = "none",
        class_counts: Sequence[float] | None = None,
        n_samples: int | None = None,
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__()
        require_one_of("reduction", reduction, get_args(Reduction))
        require_one_of("class_weights", class_weights, get_args(ClassWeights))
        self.reduction = reduction
        positive = negative = None
        if class_weights == "prevalence":
            prevalence = class_prevalence(class_counts, n_samples)
            positive, negative = torch.exp(1 - prevalence), torch.exp(prevalence)
        self.register_buffer("positive_weight", positive, persistent=False)
        self.register_buffer("negative_weight", negative, persistent=False)

    @abstractmethod
    def positive(self, logits: Tensor) -> Tensor:
        """Loss of each entry if its label is 1: (n, c), finite for every finite logit."""

    @abstractmethod
    def negative(self, logits: Tensor) -> Tensor:
        """Loss of each entry if its label is 0: (n, c), finite for every finite logit."""

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The unreduced loss (n, c) in float32 or float64; 0 where the target is NaN."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            targets = targets.to(logits.dtype)
            known = ~targets.isnan()
            targets = targets.nan_to_num(0.0)
            positive, negative = self.positive(logits), self.negative(logits)
            if self.positive_weight is not None and self.negative_weight is not None:
                positive = positive * self.positive_weight.to(logits)
                negative = negative * self.negative_weight.to(logits)
            return torch.where(known, targets * positive + (1 - targets) * negative, 0.0)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.shape != targets.shape or logits.ndim != 2:
            raise ValueError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must both be (n, c)"
            )
        total = self.elementwise(logits, targets).sum()
        if self.reduction == "sum":
            return total
        if self.reduction == "batchmean":
            return total / max(len(targets), 1)
        return total / (~targets.isnan()).sum().clamp(min=1)

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch (from 0) begins; only losses with a schedule care."""


def class_prevalence(class_counts: Sequence[float] | None, n_samples: int | None) -> Tensor:
    """Share of positives per class (c,), float32. Raises ValueError when the counts are not given."""
    if class_counts is None or not n_samples:
        raise ValueError(
            "class_counts (positives per class) and n_samples are needed for class-dependent weights"
        )
    return torch.as_tensor(class_counts, dtype=torch.float32) / n_samples


def power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent` for base >= 0, with gradient 0 instead of inf * 0 where base is 0."""
    if exponent == 0:
        return torch.ones_like(base)
    above = base > 0
    return torch.where(above, torch.where(above, base, 1.0) ** exponent, 0.0)


def require_one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{option}={value!r} is not known; choose one of {', '.join(known)}")
