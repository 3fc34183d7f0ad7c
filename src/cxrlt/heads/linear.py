"""Heads on the pooled features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlt.heads.registry import head


@head("linear", about="a linear layer on the pooled features")
class LinearHead(nn.Linear):
    """Pool, dropout and a linear layer: features (n, n_tokens, dim) to logits (n, n_classes)."""

    def __init__(self, dim: int, n_classes: int, pool: nn.Module, drop_rate: float = 0.0) -> None:
        super().__init__(dim, n_classes)
        self.pool, self.dropout = pool, nn.Dropout(drop_rate)

    def reset_parameters(self) -> None:
        """Initialise the weights as timm does: truncated normal with standard deviation 0.02, bias 0."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (n, n_classes) of features (n, n_tokens, dim), pooled over `mask` (n, n_tokens)."""
        return super().forward(self.dropout(self.pool(features, mask)))


@head(
    "cosine", about="cosines of the pooled features and class weights, without a bias, for LDAM", cosines=True
)
class CosineHead(nn.Module):
    """Pool, dropout and the cosine with each class's weight vector, in [-1, 1], as LDAM needs it.

    Input: features (n, n_tokens, dim); output: logits (n, n_classes). Always computed in float32: LDAM
    multiplies cosines by 30, and bfloat16 has only three significant digits.
    """

    bias: None = None

    def __init__(self, dim: int, n_classes: int, pool: nn.Module, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.pool, self.dropout = pool, nn.Dropout(drop_rate)
        self.weight = nn.Parameter(F.normalize(torch.randn(n_classes, dim)))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (n, n_classes) of features (n, n_tokens, dim), pooled over `mask` (n, n_tokens)."""
        pooled = self.dropout(self.pool(features, mask))
        with torch.autocast(pooled.device.type, enabled=False):
            return F.linear(F.normalize(pooled.float(), eps=1e-6), F.normalize(self.weight, eps=1e-6))
