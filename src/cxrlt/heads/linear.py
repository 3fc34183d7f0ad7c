"""Classifiers on a pooled vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlt.heads.registry import head


@head("linear", about="a linear layer on the pooled features")
class LinearHead(nn.Linear):
    """Pool, dropout, linear layer."""

    def __init__(self, dim: int, n_classes: int, pool: nn.Module, drop_rate: float = 0.0) -> None:
        super().__init__(dim, n_classes)
        self.pool, self.dropout = pool, nn.Dropout(drop_rate)

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(self.dropout(self.pool(features, mask)))


@head(
    "cosine", about="cosines of the pooled features and class weights, without a bias, for LDAM", cosines=True
)
class CosineHead(nn.Module):
    """Pool, dropout, then the cosines with each class's weight vector, in [-1, 1]: what LDAM is made for.

    Computed in float32 under any autocast: LDAM multiplies these by 30, and bfloat16 has three digits.
    """

    bias: None = None

    def __init__(self, dim: int, n_classes: int, pool: nn.Module, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.pool, self.dropout = pool, nn.Dropout(drop_rate)
        self.weight = nn.Parameter(F.normalize(torch.randn(n_classes, dim)))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        pooled = self.dropout(self.pool(features, mask))
        with torch.autocast(pooled.device.type, enabled=False):
            return F.linear(F.normalize(pooled.float(), eps=1e-6), F.normalize(self.weight, eps=1e-6))
