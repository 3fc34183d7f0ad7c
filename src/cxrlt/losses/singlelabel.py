"""The base class of single-label losses."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import Loss, upcast


class SingleLabelLoss(Loss):
    """A single-label loss: `logits` (n, c), `targets` class ids (n,) or one-hot or soft labels (n, c).

    The loss is linear in the label row, so soft labels interpolate. A row with a NaN in its label is ignored.
    `reduction` "mean" and "batchmean" are equal: the mean over rows with a known label, weighted by the class
    weights if the loss normalises by them. "sum" does not divide. Raises ValueError for a class id out of
    range, if the ids are on the CPU.
    """

    task = "single_label"

    @abstractmethod
    def per_class(self, logits: Tensor) -> Tensor:
        """Return the loss of each row for each possible label, with weights, (n, c) from logits (n, c).

        Finite for finite logits.
        """

    def parts(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Return the terms of `per_class` that have their own denominators, each (n, c)."""
        return (self.per_class(logits),)

    def denominator_weights(self) -> tuple[Tensor | None, ...]:
        """Return per part the class weights (c,) whose sum over rows divides it; None: number of rows."""
        return (None,)

    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `Loss.sums`. Raises ValueError for wrong shapes or class ids."""
        if logits.ndim != 2 or logits.shape[1] < 2 or targets.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"logits {tuple(logits.shape)} must be (n, c) with c >= 2, and "
                f"targets {tuple(targets.shape)} class ids (n,) or labels (n, c)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = upcast(logits)
            rows = label_matrix(targets, logits.shape[1]).to(logits.dtype)
            return torch.stack([(rows * part).sum() for part in self.parts(logits)])

    def denominators(self, targets: Tensor) -> Tensor:
        """See `Loss.denominators`."""
        weights = self.denominator_weights()
        if self.reduction == "sum":
            return torch.ones(len(weights), device=targets.device)
        n_known = known_rows(targets).sum().float()
        totals = torch.stack(
            [n_known if weight is None else _weight_of_rows(targets, weight) for weight in weights]
        )
        return torch.where(totals > 0, totals, 1.0)


def _weight_of_rows(targets: Tensor, weight: Tensor) -> Tensor:
    rows = label_matrix(targets, len(weight))
    return (rows * weight.to(rows)).sum().float()


def known_rows(targets: Tensor) -> Tensor:
    """Return which rows of targets (n,) or (n, c) have a label: (n,) bool."""
    return ~(targets.isnan() if targets.ndim == 1 else targets.isnan().any(dim=1))


def label_matrix(targets: Tensor, n_classes: int) -> Tensor:
    """Return one-hot or soft labels (n, c), float, from targets (n,) or (n, c); an unknown row is all 0.

    Raises ValueError for a class id out of range, if the ids are on the CPU.
    """
    known = known_rows(targets)[:, None]
    if targets.ndim == 1:
        ids = targets.nan_to_num(0.0) if targets.is_floating_point() else targets
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            _require_ids(ids, n_classes)
        targets = F.one_hot(ids.long(), n_classes)
    targets = targets if targets.is_floating_point() else targets.float()
    return torch.where(known, targets, 0.0)


def _require_ids(ids: Tensor, n_classes: int) -> None:
    wrong = ids[(ids < 0) | (ids >= n_classes) | (ids != ids.floor())]
    if len(wrong):
        raise ValueError(
            f"class ids must be integers from 0 to {n_classes - 1}; {len(wrong)} are not, "
            f"for example {wrong[0].item()}"
        )
