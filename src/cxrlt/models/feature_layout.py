"""The layout of a timm backbone's output, to read it as features (n, n_tokens, dim), 1 per position."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureLayout:
    """The layout of a backbone's output: pooled (n, dim), a feature map, or tokens (n, n_tokens, dim).

    `n_prefix` is the number of tokens before those of the image (class token, registers). Feature maps larger
    than `grid` x `grid` are averaged down to this size.
    """

    kind: Literal["pooled", "nchw", "nhwc", "tokens"]
    dim: int
    n_prefix: int = 0
    grid: int | None = None

    def features(self, output: Tensor) -> Tensor:
        """Convert an output of the backbone to features (n, n_tokens, dim), row by row of the map."""
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
            height, width = planes.shape[-2:]
            planes = F.adaptive_avg_pool2d(planes, (min(self.grid, height), min(self.grid, width)))
        return planes.flatten(2).transpose(1, 2)


def infer_layout(backbone: nn.Module, output: torch.Size, grid: int | None) -> FeatureLayout:
    """Return the layout of an unpooled `output` shape. Raises ValueError if it is not a square map."""
    if len(output) == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        if channels_last:
            return FeatureLayout("nhwc", output[3], grid=grid)
        return FeatureLayout("nchw", output[1], grid=grid)
    n_prefix = getattr(backbone, "num_prefix_tokens", 0)
    if len(output) != 3:
        raise ValueError(f"its output has {len(output)} dimensions")
    n_positions = output[1] - n_prefix
    if n_positions < 1 or math.isqrt(n_positions) ** 2 != n_positions:
        raise ValueError(f"its {output[1]} tokens are not a square feature map")
    return FeatureLayout("tokens", output[2], n_prefix, grid)
