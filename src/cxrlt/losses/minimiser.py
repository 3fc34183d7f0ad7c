"""Where an uninformed classifier should start."""

import torch
from torch import Tensor

from cxrlt.losses.base import MultiLabelLoss


@torch.no_grad()
def population_minimiser(loss: MultiLabelLoss, prevalence: Tensor, bound: float = 12.0) -> Tensor:
    """The constant logit per class (c,) that minimises the expected loss at `prevalence` (c,).

    For cross-entropy this is the log odds of the prevalence; the asymmetric losses are no proper scores and
    have theirs elsewhere (RAL at prevalence .002: p = .245). Searched on [-bound, bound] in float64, on a
    grid that is then refined around its best point, because the expected loss need not be convex.
    """
    prevalence = prevalence.double().clamp(1e-6, 1 - 1e-6)
    low = torch.full_like(prevalence, -bound)
    high = torch.full_like(prevalence, bound)
    columns = torch.arange(len(prevalence))
    steps = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    for _ in range(5):
        grid = low + (high - low) * steps
        risk = prevalence * loss.elementwise(grid, torch.ones_like(grid))
        risk += (1 - prevalence) * loss.elementwise(grid, torch.zeros_like(grid))
        best = risk.argmin(dim=0)
        low = grid[(best - 1).clamp(min=0), columns]
        high = grid[(best + 1).clamp(max=len(grid) - 1), columns]
    return ((low + high) / 2).float()
