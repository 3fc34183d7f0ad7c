"""What the losses over one class per row share."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import Loss, widened


class SingleLabelLoss(Loss):
    """A loss over exclusive classes: `logits` (n, c), `targets` ids (n,) or one-hot or soft rows (n, c).

    A row's loss is linear in its one-hot row, so soft labels interpolate. A NaN id, or a row with a NaN, is
    dropped whole. `reduction` "mean" and "batchmean" are the same: the mean over rows with a known label, or,
    where a loss has class weights and normalises by them, over the weights of these rows; "sum" divides by
    nothing. Raises ValueError for a class id out of range, if the ids are on the CPU.
    """

    task = "single_label"

    @abstractmethod
    def per_class(self, logits: Tensor) -> Tensor:
        """Loss of each row if its label were class j, weights included: (n, c), finite for finite logits."""

    def parts(self, logits: Tensor) -> tuple[Tensor, ...]:
        """The terms of `per_class` that are averaged apart, each (n, c)."""
        return (self.per_class(logits),)

    def normalisers(self) -> tuple[Tensor | None, ...]:
        """For every part the class weights (c,) whose sum over the rows divides it; None: count the rows."""
        return (None,)

    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.ndim != 2 or logits.shape[1] < 2 or targets.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"logits {tuple(logits.shape)} must be (n, c) with c >= 2 and "
                f"targets {tuple(targets.shape)} class ids (n,) or rows (n, c)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = widened(logits)
            rows = label_rows(targets, logits.shape[1]).to(logits.dtype)
            return torch.stack([(rows * part).sum() for part in self.parts(logits)])

    def denominators(self, targets: Tensor) -> Tensor:
        weights = self.normalisers()
        if self.reduction == "sum":
            return torch.ones(len(weights), device=targets.device)
        n_known = known_rows(targets).sum().float()
        totals = [n_known if weight is None else _weight_of_rows(targets, weight) for weight in weights]
        totals = torch.stack(totals)
        return torch.where(totals > 0, totals, 1.0)


def _weight_of_rows(targets: Tensor, weight: Tensor) -> Tensor:
    rows = label_rows(targets, len(weight))
    return (rows * weight.to(rows)).sum().float()


def known_rows(targets: Tensor) -> Tensor:
    """Which rows have a label: (n,) bool."""
    return ~(targets.isnan() if targets.ndim == 1 else targets.isnan().any(dim=1))


def label_rows(targets: Tensor, n_classes: int) -> Tensor:
    """One-hot or soft labels (n, c), float; a row without a known label is all 0."""
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
            f"class ids must be whole numbers from 0 to {n_classes - 1}; {len(wrong)} are not, "
            f"e.g. {wrong[0].item()}"
        )
