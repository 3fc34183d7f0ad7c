"""Binary cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import MultiLabelLoss


class BinaryCrossEntropy(MultiLabelLoss):
    """-[w y log p + (1 - y) log(1 - p)] with p = sigmoid(logit); w = `pos_weight`, one number or (c,)."""

    pos_weight: Tensor | None

    def __init__(self, pos_weight: float | list[float] | None = None, **shared: object) -> None:
        super().__init__(**shared)
        weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)
        self.register_buffer("pos_weight", weight, persistent=False)

    def positive(self, logits: Tensor) -> Tensor:
        loss = F.softplus(-logits)
        return loss if self.pos_weight is None else loss * self.pos_weight.to(logits)

    def negative(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)
