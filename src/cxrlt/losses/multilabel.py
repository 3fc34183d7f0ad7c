"""The base class of multi-label losses."""

from abc import abstractmethod
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from cxrlt.losses.base import Loss, SharedOptions, require_one_of, upcast
from cxrlt.losses.class_weights import prevalence

ClassWeights = Literal["none", "prevalence"]


class MultiLabelLoss(Loss):
    """A multi-label loss: `logits` (n, c), `targets` (n, c) in [0, 1], soft labels included.

    The loss of an entry is y * positive + (1 - y) * negative, times `entry_weights` if the loss has them.
    `reduction` is "batchmean" (sum over classes, mean over rows), "mean" (over known entries) or "sum".

    `class_weights="prevalence"` gives positives the weight e^(1 - pi) and negatives e^pi, where pi is the
    share of positives (CheXFusion, CXR-LT 2023).
    """

    task = "multi_label"
    positive_weight: Tensor | None
    negative_weight: Tensor | None

    def __init__(self, class_weights: ClassWeights = "none", **shared: Unpack[SharedOptions]) -> None:
        super().__init__(**shared)
        require_one_of("class_weights", class_weights, get_args(ClassWeights))
        self.register_buffer("positive_weight", None, persistent=False)
        self.register_buffer("negative_weight", None, persistent=False)
        if class_weights == "prevalence":
            share = prevalence(shared.get("class_counts"), shared.get("n_samples"))
            self.positive_weight, self.negative_weight = (
                torch.exp(1 - share).float(),
                torch.exp(share).float(),
            )

    @abstractmethod
    def positive_term(self, logits: Tensor) -> Tensor:
        """Return `positive` before class weights, (n, c) from logits (n, c); finite for finite logits."""

    @abstractmethod
    def negative_term(self, logits: Tensor) -> Tensor:
        """Return `negative` before class weights, (n, c) from logits (n, c); finite for finite logits."""

    def positive(self, logits: Tensor) -> Tensor:
        """Return the loss of each entry for label 1, (n, c) from float32 or float64 logits (n, c)."""
        term = self.positive_term(logits)
        return term if self.positive_weight is None else term * self.positive_weight.to(logits)

    def negative(self, logits: Tensor) -> Tensor:
        """Return the loss of each entry for label 0, (n, c) from float32 or float64 logits (n, c)."""
        term = self.negative_term(logits)
        return term if self.negative_weight is None else term * self.negative_weight.to(logits)

    def entry_weights(self, targets: Tensor) -> Tensor | None:
        """Return weights (n, c) that depend on all labels of a row of targets (n, c), or None."""
        return None

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the unreduced loss (n, c) in float32 or float64; 0 where the target is NaN.

        Raises ValueError unless logits and targets are both (n, c).
        """
        if logits.shape != targets.shape or logits.ndim != 2:
            raise ValueError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must both be (n, c)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = upcast(logits)
            targets = targets.to(logits.dtype)
            labels = targets.nan_to_num(0.0)
            loss = labels * self.positive(logits) + (1 - labels) * self.negative(logits)
            weights = self.entry_weights(targets)
            loss = loss if weights is None else weights * loss
            return torch.where(targets.isnan(), 0.0, loss)

    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `Loss.sums`."""
        return self.elementwise(logits, targets).sum()[None]

    def denominators(self, targets: Tensor) -> Tensor:
        """See `Loss.denominators`."""
        if self.reduction == "mean":
            return (~targets.isnan()).sum().clamp(min=1).float()[None]
        rows = max(len(targets), 1) if self.reduction == "batchmean" else 1
        return torch.full((1,), float(rows), device=targets.device)
