"""Pooling layers: features (n, n_tokens, dim) to (n, dim), over the valid positions of a mask."""

import torch
from torch import Tensor, nn


class AveragePool(nn.Module):
    """Mean over the valid positions: (n, n_tokens, dim) to (n, dim)."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, dim) from features (n, n_tokens, dim), pooled over `mask` (n, n_tokens)."""
        return masked_mean(features, mask)


class GeMPool(nn.Module):
    """Generalised mean (mean x^p)^(1/p) of each channel, negative values as 0; p is learned, from 3.

    Input: features (n, n_tokens, dim); output: (n, dim). Source: Radenovic et al., Fine-tuning CNN Image
    Retrieval with No Human Annotation, TPAMI 2019, section 3.2. Always computed in float32 and relative to
    the largest value, so that powers do not overflow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, dim) from features (n, n_tokens, dim), pooled over `mask` (n, n_tokens)."""
        with torch.autocast(features.device.type, enabled=False):
            power = self.p.clamp(min=1.0)
            values = features.float().clamp(min=1e-6)
            if mask is not None:
                values = values.masked_fill(~mask[..., None], 1e-6)
            largest = values.detach().amax(dim=1, keepdim=True)
            mean = masked_mean((values / largest).pow(power), mask)
            return largest[:, 0] * mean.pow(1 / power)


class AttentionPool(nn.Module):
    """Mean over positions weighted by softmax(x . q / sqrt(dim)); q is learned, from 0 (the plain mean).

    Input: features (n, n_tokens, dim); output: (n, dim).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (n, dim) from features (n, n_tokens, dim), pooled over `mask` (n, n_tokens)."""
        scores = (features @ self.query).float() / self.query.numel() ** 0.5
        weights = masked_softmax(scores, mask)
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)
        return (weights[..., None] * features).sum(dim=1)


def create_pool(name: str, dim: int) -> nn.Module:
    """Create the pooling layer of a recipe for features of `dim` channels."""
    return {"gem": GeMPool, "attention": lambda: AttentionPool(dim)}.get(name, AveragePool)()


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over dimension 1 of (n, n_tokens, dim), over the valid entries only."""
    if mask is None:
        return values.mean(dim=1)
    kept = values.masked_fill(~mask[..., None], 0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax over dimension 1 of (n, n_tokens) or (n, n_tokens, c), 0 if `mask` is False."""
    if mask is not None:
        expanded = mask if scores.ndim == 2 else mask[..., None]
        scores = scores.masked_fill(~expanded, -torch.inf)
    return scores.softmax(dim=1)
