"""The base class of losses: arguments, reduction and precision."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["mean", "batchmean", "sum"]


class SharedOptions(TypedDict, total=False):
    """Keyword-only arguments of every loss.

    `class_counts`: number of positives per class, in column order; `n_samples`: number of rows they were
    counted in. Only losses and options that depend on class frequencies need them.
    """

    class_counts: Sequence[float] | None
    n_samples: int | None
    reduction: Reduction


class Loss(nn.Module, ABC):
    """A loss, called as `loss(logits, targets) -> scalar`.

    It computes in float32, also under autocast and for float16 or bfloat16 logits; float64 stays float64. NaN
    targets are unknown: they add nothing to the loss or the gradient.

    The reduced loss is (sums / denominators).sum(). With the denominators of the whole batch, `sums` can be
    added over parts of the batch, so gradient accumulation and data-parallel training give the gradient of
    the whole batch. Raises ValueError for a wrong option or shape.
    """

    task: ClassVar[str]
    """The task of challenges that it fits: multi_label or single_label."""
    reduction: Reduction
    """How `forward` reduces the loss of the batch."""
    logit_scale: float = 1.0
    """Factor on logits before sigmoid or softmax."""

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
        """Return the sum of the loss over the batch (k,); k > 1 for losses that are a sum of several means.

        `logits` (n, c); `targets` (n, c), or class ids (n,) for a single-label loss.
        """

    @abstractmethod
    def denominators(self, targets: Tensor) -> Tensor:
        """Return the divisors (k,) of `sums` for `reduction`, from targets as in `sums`; never 0."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the reduced loss, a scalar; arguments as in `sums`."""
        sums = self.sums(logits, targets)
        return (sums / self.denominators(targets).to(sums)).sum()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0; only losses with a schedule use it."""


def upcast(logits: Tensor) -> Tensor:
    """Return the logits, of any shape, as float32; float64 stays float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def power(base: Tensor, exponent: float) -> Tensor:
    """Return `base ** exponent` (shape of base >= 0), with gradient 0, not NaN, where base is 0."""
    if exponent == 0:
        return torch.ones_like(base)
    is_positive = base > 0
    return torch.where(is_positive, torch.where(is_positive, base, 1.0) ** exponent, 0.0)


def require_one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError if the value of an option is not one of `known`."""
    if value not in known:
        raise ValueError(f"unknown {option}={value!r}; choose one of {', '.join(known)}")


def require_at_least(minimum: float, **options: float) -> None:
    """Raise ValueError for an option below `minimum`."""
    for option, value in options.items():
        if not value >= minimum:
            raise ValueError(f"{option}={value} must be >= {minimum}")


def require_below_one(**options: float) -> None:
    """Raise ValueError for an option outside [0, 1)."""
    for option, value in options.items():
        if not 0 <= value < 1:
            raise ValueError(f"{option}={value} must be in [0, 1)")
