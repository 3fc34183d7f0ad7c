"""Fusion of the images of a study."""

import math

import torch
from torch import Tensor, nn

from cxrlt.recipe import FusionConfig

N_VIEWS = 3
"""Number of view embeddings: frontal, lateral, unknown."""


class StudyEncoder(nn.Module):
    """A transformer encoder over all feature tokens of a study.

    Input: features (n_studies, n_images, n_tokens, in_dim), `views` (n_studies, n_images) with the view of
    each image, and `present` (n_studies, n_images), which is False for padding; each study has at least one
    image. Output: tokens (n_studies, n_images * n_tokens, dim) and their mask (n_studies, n_images *
    n_tokens). The output of a study does not depend on padding or on other studies, and is equivariant to the
    order of the images.
    """

    def __init__(self, in_dim: int, cfg: FusionConfig) -> None:
        super().__init__()
        self.norm_in, self.project = nn.LayerNorm(in_dim), nn.Linear(in_dim, cfg.dim)
        self.views = nn.Embedding(N_VIEWS, cfg.dim)
        nn.init.trunc_normal_(self.views.weight, std=0.02)
        # torch's TransformerEncoder would start with the same weights in every layer
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                cfg.dim,
                cfg.n_heads,
                dim_feedforward=4 * cfg.dim,
                dropout=cfg.drop_rate,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(cfg.depth)
        )
        self.norm_out = nn.LayerNorm(cfg.dim)

    def forward(self, features: Tensor, views: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens and their mask."""
        n_tokens = features.shape[2]
        tokens = self.project(self.norm_in(features.masked_fill(~present[..., None, None], 0)))
        view = self.views(views.masked_fill(~present, 0))[:, :, None]
        position = position_encodings(n_tokens, tokens.shape[-1], tokens.device)
        tokens = (tokens + view + position).flatten(1, 2)
        mask = present.repeat_interleave(n_tokens, dim=1)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        return self.norm_out(tokens), mask


def position_encodings(n: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Return sinusoidal position encodings (n, dim): of row and column if n is a square, else of the index.

    Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5.
    """
    side = math.isqrt(n)
    index = torch.arange(n, device=device)
    if side**2 != n:
        return _sinusoids(index, dim)
    return torch.cat([_sinusoids(index // side, dim // 2), _sinusoids(index % side, dim - dim // 2)], dim=1)


def _sinusoids(index: Tensor, dim: int) -> Tensor:
    n_sines = (dim + 1) // 2
    frequencies = 10_000 ** (-torch.arange(n_sines, device=index.device) / n_sines)
    angles = index[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()[:, : dim - n_sines]], dim=1)
