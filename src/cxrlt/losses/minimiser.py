"""The constant logits at which a loss is least: where training starts."""

import torch
from torch import Tensor

from cxrlt.losses.base import Loss
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.singlelabel import SingleLabelLoss, label_rows

BOUND = 12.0  # logits: p from 6e-6 to 1 - 6e-6
ROWS_AT_A_TIME = 16384
"""Several float64 copies of all targets would be the most memory that a training ever takes."""


def population_minimiser(loss: Loss, targets: Tensor) -> Tensor:
    """The constant logits (c,), float32 in [-12, 12], at which the expected loss over `targets` is least.

    `targets` are the training rows (n, c), NaN = unknown. For cross-entropy the minimiser is the log odds
    (the log prior) of the class shares; most other losses are no proper scores and have theirs elsewhere
    (RAL at prevalence .002: p = .245). Half a row is added to both signs of a class, or to every class of
    exclusive ones, so that an absent class has a finite minimiser. Computed in float64 on the CPU, from
    values: where a loss detaches a weight, its gradient vanishes elsewhere.
    """
    targets = targets.detach().cpu()
    if isinstance(loss, MultiLabelLoss):
        return _per_class_minimiser(loss, targets)
    if isinstance(loss, SingleLabelLoss):
        return _joint_minimiser(loss, targets)
    raise ValueError(f"{type(loss).__name__} is neither a multi-label nor a single-label loss")


@torch.no_grad()
def _per_class_minimiser(loss: MultiLabelLoss, targets: Tensor) -> Tensor:
    """On a grid that is refined around its best point, because the expected loss need not be convex."""
    sums = sum(_weight_sums(loss, part.double()) for part in targets.split(ROWS_AT_A_TIME))
    n_known, known, positive, negative = sums
    mean_weight = known / n_known.clamp(min=1)
    half_row = torch.where(mean_weight > 0, mean_weight, 1.0) / 2
    positive, negative = positive + half_row, negative + half_row
    low = torch.full_like(positive, -BOUND)
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
    """(4, c): how many labels are known, their weights, and of these the parts of positives and negatives."""
    weights = loss.entry_weights(targets)
    weights = torch.ones_like(targets) if weights is None else weights.to(targets)
    known, labels = ~targets.isnan(), targets.nan_to_num(0.0)
    weights = weights * known
    parts = (known.to(targets), weights, weights * labels, weights * (1 - labels))
    return torch.stack([part.sum(dim=0) for part in parts])


@torch.no_grad()
def _joint_minimiser(loss: SingleLabelLoss, targets: Tensor) -> Tensor:
    """By LBFGS from the log prior and from equal logits, whichever ends lower; centred on mean 0."""
    counts = label_rows(targets.double(), targets.shape[1]).sum(dim=0) + 0.5
    shares = counts / counts.sum()
    starts = torch.stack([shares.log(), torch.zeros_like(shares)])
    ends = torch.stack([_descend(loss, start, shares) for start in starts])
    best = ends[_expected(loss, ends, shares).argmin()]
    return (best - best.mean()).clamp(-BOUND, BOUND).float()


def _expected(loss: SingleLabelLoss, points: Tensor, shares: Tensor) -> Tensor:
    """Expected loss (b,) of every point (b, c) where the classes have these shares (c,)."""
    sums = torch.stack([part @ shares for part in loss.parts(points)], dim=1)
    return (sums / loss.denominators(shares[None])).sum(dim=1)


def _descend(loss: SingleLabelLoss, start: Tensor, shares: Tensor) -> Tensor:
    """The slope is taken by differences, for that of a loss which detaches a weight is not the value's."""
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
