"""What every loss shares: the call, the reduction, the precision."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["mean", "batchmean", "sum"]


class SharedOptions(TypedDict, total=False):
    """Keyword-only arguments of every loss.

    `class_counts`: positives of each class, in column order; `n_samples`: the rows they were counted in.
    Both are needed only by losses or options that depend on the classes.
    """

    class_counts: Sequence[float] | None
    n_samples: int | None
    reduction: Reduction


class Loss(nn.Module, ABC):
    """A loss called as `loss(logits, targets) -> scalar`.

    Arithmetic is float32 under any autocast and for any shorter logits; float64 stays float64. NaN targets
    are unknown and contribute neither value nor gradient.

    A reduced loss is (sums / denominators).sum(). Both add up over parts of a batch if the denominators are
    taken from the targets of the whole batch: so gradient accumulation and data-parallel training give the
    gradient of the whole batch. Raises ValueError for a wrong option or shape.
    """

    task: ClassVar[str]
    """What a challenge calls its task: multi_label or single_label."""
    reduction: Reduction
    logit_scale: float = 1.0
    """What logits are to be multiplied by before they become probabilities."""

    def __init__(
        self,
        *,
        class_counts: Sequence[float] | None = None,
        n_samples: int | None = None,
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__()
        require_one_of("reduction", reduction, get_args(Reduction))
        self.reduction = reduction

    @abstractmethod
    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss summed over the batch: (k,), k = 1 but for losses made of several means."""

    @abstractmethod
    def denominators(self, targets: Tensor) -> Tensor:
        """What `reduction` divides each of the sums by: (k,), from the targets alone; never 0."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        sums = self.sums(logits, targets)
        return (sums / self.denominators(targets).to(sums)).sum()

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch (from 0) begins; only losses with a schedule care."""


def widened(logits: Tensor) -> Tensor:
    """Logits in the precision of the arithmetic: float64 stays, everything else becomes float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent` for base >= 0, with gradient 0 instead of inf * 0 where base is 0."""
    if exponent == 0:
        return torch.ones_like(base)
    above = base > 0
    return torch.where(above, torch.where(above, base, 1.0) ** exponent, 0.0)


def require_one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{option}={value!r} is not known; choose one of {', '.join(known)}")


def require_at_least(least: float, **options: float) -> None:
    for option, value in options.items():
        if not value >= least:
            raise ValueError(f"{option}={value} must be >= {least}")


def require_below_one(**options: float) -> None:
    for option, value in options.items():
        if not 0 <= value < 1:
            raise ValueError(f"{option}={value} must be in [0, 1)")
