"""Class-specific residual attention (CSRA)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlt.heads.pools import masked_mean, masked_softmax
from cxrlt.heads.registry import head


@head("csra", about="class-specific residual attention", reads_map=True)
class CSRAHead(nn.Module):
    """Per class, the mean score over positions plus `weight` times the softmax-weighted mean score.

    The score of a position x is x . m / |m|, with the class's vector m. Input: features (n, n_tokens, dim)
    and a mask (n, n_tokens); output: logits (n, n_classes). Source: Zhu and Wu, Residual Attention: A Simple
    but Effective Method for Multi-Label Recognition, ICCV 2021, section 3, as in the authors' code, with one
    head and temperature 1. The bias is an addition, so that training can start at the minimum of the loss.
    Always computed in float32. Raises ValueError if `weight` is negative.
    """

    def __init__(self, dim: int, n_classes: int, drop_rate: float = 0.0, *, weight: float = 0.1) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight={weight} must be >= 0")
        self.residual_weight, self.dropout = weight, nn.Dropout(drop_rate)
        self.directions = nn.Parameter(F.normalize(torch.randn(n_classes, dim)))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (n, n_classes) of features (n, n_tokens, dim), over the positions in `mask`."""
        with torch.autocast(features.device.type, enabled=False):
            scores = F.linear(self.dropout(features.float()), F.normalize(self.directions, eps=1e-6))
            if mask is not None:
                scores = scores.masked_fill(~mask[..., None], 0)
            attended = (masked_softmax(scores, mask) * scores).sum(dim=1)
            return masked_mean(scores, mask) + self.residual_weight * attended + self.bias
