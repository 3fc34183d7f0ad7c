"""Every registered loss at its defaults and variants, and test batches."""

from dataclasses import dataclass, field
from inspect import signature
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses import LOSSES, Loss, Registration, create_loss

COUNTS = {"absent": 0, "tail": 3, "medium": 10, "head": 40}
N_SAMPLES = 60
N_CLASSES = len(COUNTS)
REDUCTIONS = ["mean", "batchmean", "sum"]


@dataclass(frozen=True)
class Case:
    name: str
    options: dict[str, object] = field(default_factory=dict)

    @property
    def registration(self) -> Registration:
        return LOSSES[self.name]

    @property
    def exclusive(self) -> bool:
        return self.registration.loss.task == "single_label"

    def make(self, counts: dict[str, int] = COUNTS, **over: object) -> Loss:
        options = self.options | over
        return create_loss(
            self.name, classes=list(counts), class_counts=counts, n_samples=N_SAMPLES, **options
        )

    def option(self, name: str) -> object:
        """Return the value of an option of this case, or its default."""
        return self.options.get(name, signature(self.registration.loss).parameters[name].default)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.options.items())})"


DEFAULTS = [Case(name) for name in LOSSES]
CASES = [Case(name, dict(options)) for name, r in LOSSES.items() for options in ({}, *r.variants)]


def batch(case: Case, n: int = 7, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return random logits and hard labels, (n, c) each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, N_CLASSES, generator=generator, dtype=dtype) * 4
    draws = torch.rand(n, N_CLASSES, generator=generator, dtype=dtype)
    if case.exclusive:
        return logits, F.one_hot(draws.argmax(dim=1), N_CLASSES).to(dtype)
    return logits, (draws < 0.4).to(dtype)


def extreme_logits() -> Tensor:
    """Return rows (n, c) over [-100, 100]: all combinations of six values, and rows with equal logits."""
    values = (-100.0, -17.6, -0.5, 0.0, 6.3, 100.0)
    mixtures = torch.tensor(list(product(values, repeat=N_CLASSES)))
    equal = torch.linspace(-100, 100, 401)[:, None].expand(-1, N_CLASSES)
    return torch.cat([mixtures, equal])


def uniform_labels(case: Case, n: int) -> list[Tensor]:
    """Return batches (n, c) with one label: all negative, all positive; or each exclusive class."""
    if case.exclusive:
        return [row.expand(n, -1) for row in torch.eye(N_CLASSES)]
    return [torch.full((n, N_CLASSES), label) for label in (0.0, 1.0)]


def value_and_gradient(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    return value.detach(), logits.grad
