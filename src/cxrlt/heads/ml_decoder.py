"""ML-Decoder: one query per class attends to the feature map."""

import torch
from torch import Tensor, nn

from cxrlt.heads.registry import head


@head("ml_decoder", about="a query per class attends to the feature map", reads_map=True)
class MLDecoderHead(nn.Module):
    """One learned query per class: cross-attention to the positions, a feed-forward layer, a weight vector.

    Input: features (n, n_tokens, in_dim) and a mask (n, n_tokens); output: logits (n, n_classes). Source:
    Ridnik et al., ML-Decoder: Scalable and Versatile Classification Head, WACV 2023, with one query per class
    (group size 1). There is no attention between queries, so classes are independent. The feed-forward layer
    is 4 x `dim` wide. Attention and feed-forward have dropout too. Raises ValueError if `dim` is not a
    multiple of `n_heads`.
    """

    def __init__(
        self, in_dim: int, n_classes: int, drop_rate: float = 0.0, *, dim: int = 256, n_heads: int = 8
    ) -> None:
        super().__init__()
        if not (dim >= 8 and n_heads >= 1 and dim % n_heads == 0):
            raise ValueError(f"dim={dim} must be at least 8 and a multiple of n_heads={n_heads}")
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU())
        self.queries = nn.Parameter(torch.randn(n_classes, dim))
        self.attention = nn.MultiheadAttention(dim, n_heads, dropout=drop_rate, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Dropout(drop_rate), nn.Linear(4 * dim, dim)
        )
        self.norm_queries, self.norm_attended, self.norm_out = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(drop_rate)
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(n_classes, dim), std=0.02))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (n, n_classes) of features (n, n_tokens, in_dim), over the positions in `mask`."""
        positions = self.embed(features)
        queries = self.norm_queries(self.queries).expand(len(features), -1, -1)
        padding = None if mask is None else ~mask
        attended, _ = self.attention(
            queries, positions, positions, key_padding_mask=padding, need_weights=False
        )
        classes = self.norm_attended(queries + self.dropout(attended))
        classes = self.norm_out(classes + self.dropout(self.feed_forward(classes)))
        return (self.dropout(classes) * self.weight).sum(dim=-1) + self.bias
