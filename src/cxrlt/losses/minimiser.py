"""The constant logits that minimise a loss: the initial bias of the classifier."""

import functools

import torch
from torch import Tensor

from cxrlt.losses.base import Loss
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.singlelabel import SingleLabelLoss, label_matrix

MAX_LOGIT = 12.0
"""Limit of the result: p from 6e-6 to 1 - 6e-6."""
CHUNK_ROWS = 16384
"""Rows per chunk: float64 copies of all targets at once would need more memory than the training."""


def population_minimiser(loss: Loss, targets: Tensor) -> Tensor:
    """Return the constant logits (c,), float32 in [-12, 12], with the lowest expected loss over `targets`.

    `targets` are the training rows (n, c), NaN = unknown. For cross-entropy the minimiser is the log odds (or
    log prior) of the class shares. Most other losses are not proper scores, and their minimiser differs (RAL
    at prevalence .002: p = .245). Half a row is added to positives and negatives of a class, or to each
    exclusive class, so that a class without positives has a finite minimiser. Computed in float64 on the CPU,
    from loss values, because the gradient of a loss that detaches a weight is 0 elsewhere. Raises ValueError
    for another kind of loss.
    """
    targets = targets.detach().cpu()
    if isinstance(loss, MultiLabelLoss):
        return _per_class_minimiser(loss, targets)
    if isinstance(loss, SingleLabelLoss):
        return _joint_minimiser(loss, targets)
    raise ValueError(f"{type(loss).__name__} is not a multi-label or single-label loss")


@torch.no_grad()
def _per_class_minimiser(loss: MultiLabelLoss, targets: Tensor) -> Tensor:
    """Search a grid and refine it around the best point, because the expected loss may not be convex."""
    chunks = [_weight_sums(loss, chunk.double()) for chunk in targets.split(CHUNK_ROWS)]
    n_known, known, positive, negative = functools.reduce(torch.add, chunks)
    mean_weight = known / n_known.clamp(min=1)
    half_row = torch.where(mean_weight > 0, mean_weight, 1.0) / 2
    positive, negative = positive + half_row, negative + half_row
    low = torch.full_like(positive, -MAX_LOGIT)
    high = -low
    columns = torch.arange(len(positive))
    steps = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    for _ in range(5):
        grid = low + (high - low) * steps
        best = (positive * loss.positive(grid) + negative * loss.negative(grid)).argmin(dim=0)
        low = grid[(best - 1).clamp(min=0), columns]
        high = grid[(best + 1).clamp(max=len(grid) - 1), columns]
    return ((low + high) / 2).float()


def _weight_sums(loss: MultiLabelLoss, targets: Tensor) -> Tensor:
    """Return (4, c): number of known labels, and summed weights of all, of positives and of negatives."""
    weights = loss.entry_weights(targets)
    weights = torch.ones_like(targets) if weights is None else weights.to(targets)
    known, labels = ~targets.isnan(), targets.nan_to_num(0.0)
    weights = weights * known
    parts = (known.to(targets), weights, weights * labels, weights * (1 - labels))
    return torch.stack([part.sum(dim=0) for part in parts])


@torch.no_grad()
def _joint_minimiser(loss: SingleLabelLoss, targets: Tensor) -> Tensor:
    """Minimise with LBFGS from the log prior and from equal logits; take the lower result, with mean 0."""
    counts = label_matrix(targets.double(), targets.shape[1]).sum(dim=0) + 0.5
    shares = counts / counts.sum()
    starts = torch.stack([shares.log(), torch.zeros_like(shares)])
    ends = torch.stack([_descend(loss, start, shares) for start in starts])
    best = ends[_expected(loss, ends, shares).argmin()]
    return (best - best.mean()).clamp(-MAX_LOGIT, MAX_LOGIT).float()


def _expected(loss: SingleLabelLoss, points: Tensor, shares: Tensor) -> Tensor:
    """Return the expected loss (b,) of constant logits `points` (b, c) for class `shares` (c,)."""
    sums = torch.stack([part @ shares for part in loss.parts(points)], dim=1)
    return (sums / loss.denominators(shares[None])).sum(dim=1)


def _descend(loss: SingleLabelLoss, start: Tensor, shares: Tensor) -> Tensor:
    """Minimise from `start` (c,) with finite differences, as autograd does not see detached weights."""
    logits = start - start.mean()
    logits.requires_grad_()
    steps = 1e-6 * torch.eye(len(start), dtype=start.dtype)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        points = torch.cat([logits + steps, logits - steps, logits[None]])
        values = _expected(loss, points, shares)
        above, below = values[:-1].chunk(2)
        logits.grad = (above - below) / 2e-6
        return values[-1]

    with torch.no_grad():
        optimizer.step(closure)
    return logits.detach()
