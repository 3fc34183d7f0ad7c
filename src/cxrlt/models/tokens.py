"""What a timm backbone returns, read as features (n, t, d): one vector per place of the image."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureLayout:
    """How to read a backbone's output: pooled (n, d), a map in either order, or tokens, some no places.

    `dim` is d, `n_prefix` how many tokens stand before those of the places (class token, registers), `grid`
    the side that larger maps are averaged down to.
    """

    kind: Literal["pooled", "nchw", "nhwc", "tokens"]
    dim: int
    n_prefix: int = 0
    grid: int | None = None

    def features(self, output: Tensor) -> Tensor:
        """(n, t, d), row by row of the map."""
        if self.kind == "pooled":
            return output[:, None]
        if self.kind == "tokens":
            output = output[:, self.n_prefix :]
            if self.grid is None:
                return output
            side = math.isqrt(output.shape[1])
            output = output.unflatten(1, (side, side))
        planes = output if self.kind == "nchw" else output.permute(0, 3, 1, 2)
        if self.grid is not None:
            planes = F.adaptive_avg_pool2d(planes, [min(self.grid, side) for side in planes.shape[-2:]])
        return planes.flatten(2).transpose(1, 2)


def layout_of(backbone: nn.Module, output: torch.Size, grid: int | None) -> FeatureLayout:
    """The layout of an unpooled `output` of the backbone. Raises ValueError if it has no places."""
    if len(output) == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        kind, dim = ("nhwc", output[3]) if channels_last else ("nchw", output[1])
        return FeatureLayout(kind, dim, grid=grid)
    n_prefix = getattr(backbone, "num_prefix_tokens", 0)
    if len(output) != 3:
        raise ValueError(f"it returns {len(output)} dimensions")
    n_places = output[1] - n_prefix
    if n_places < 1 or math.isqrt(n_places) ** 2 != n_places:
        raise ValueError(f"its {output[1]} tokens are not the places of a square")
    return FeatureLayout("tokens", output[2], n_prefix, grid)
