"""Binary cross-entropy."""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions
from cxrlt.losses.multilabel import ClassWeights, MultiLabelLoss


class BinaryCrossEntropy(MultiLabelLoss):
    """-[w y log p + (1 - y) log(1 - p)] with p = sigmoid(logit); w = `pos_weight`, one number or (c,)."""

    def __init__(
        self,
        pos_weight: float | Sequence[float] | None = None,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(class_weights, **shared)
        if pos_weight is not None:
            weight = torch.as_tensor(pos_weight, dtype=torch.float32)
            self.positive_weight = weight if self.positive_weight is None else weight * self.positive_weight

    def positive_term(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits)

    def negative_term(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)
