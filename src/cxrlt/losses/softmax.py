"""Cross-entropy over exclusive classes and its relatives."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions
from cxrlt.losses.singlelabel import SingleLabelLoss


class CrossEntropy(SingleLabelLoss):
    """-log p_t with p = softmax(logits)."""

    def __init__(self, **shared: Unpack[SharedOptions]) -> None:
        super().__init__(**shared)

    def per_class(self, logits: Tensor) -> Tensor:
        return -F.log_softmax(logits, dim=1)
