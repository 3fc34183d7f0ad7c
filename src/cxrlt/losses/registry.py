"""The registry of losses: `@loss("name", ...)` adds one, and declares its properties for the tests.

The tests read LOSSES, so a new loss is tested automatically.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from cxrlt.losses.base import Loss

Options = Mapping[str, object]


@dataclass(frozen=True)
class Registration:
    """A loss and its declared properties.

    The tests check for every loss, at its defaults and at its `variants`: finite value and gradient for
    logits within +-100 of any float type, NaN masking, sums over parts of a batch, equal results when
    compiled, and more (tests/losses/test_guarantees.py). The fields below declare the differences between
    losses.
    """

    loss: type[Loss]
    neutral: Options | None
    """Options that make it cross-entropy (binary if multi-label) for equal class counts, or None."""
    variants: tuple[Options, ...] = ()
    """More options to test in the same way."""
    kink: str | None = None
    """Name of the option with the probability at which the derivative of a negative jumps."""
    detach: str | None = None
    """Name of the option that stops the gradient through a weight."""
    non_monotone: tuple[tuple[Options, str], ...] = field(default=())
    """Options with which the loss is not monotone in a logit, and why. Without an entry for the defaults,
    these are monotone: with a higher logit the loss never rises for a positive and never falls for a
    negative."""
    linear: bool = True
    """Whether the loss is linear in soft labels. False if a weight depends on all labels of a row."""
    cosines: Literal["needed", "possible"] | None = None
    """Whether logits must, or can, be cosines in [-1, 1] from a head with `cosines=True`."""


PREVALENCE = {"class_weights": "prevalence"}
EFFECTIVE = {"class_weights": "effective"}
COMPLEMENT = {"class_weights": "complement"}
LOSSES: dict[str, Registration] = {}
LossClass = TypeVar("LossClass", bound=type[Loss])


def loss(name: str, *, neutral: Options | None, **properties: Any) -> Callable[[LossClass], LossClass]:
    """Decorator that registers a loss class as `name`; the other arguments are fields of Registration.

    A module of this package needs no other registration. Raises ValueError if the name is already registered.
    """

    def register(kind: LossClass) -> LossClass:
        if name in LOSSES:
            raise ValueError(f"two losses have the name {name!r}: {LOSSES[name].loss} and {kind}")
        LOSSES[name] = Registration(kind, neutral, **properties)
        return kind

    return register


def create_loss(
    name: str,
    *,
    classes: Sequence[str],
    class_counts: Mapping[str, float],
    n_samples: int,
    **options: Any,
) -> Loss:
    """Return the loss `name` for the columns `classes`.

    `class_counts` maps every class to its positives among `n_samples` rows. Raises ValueError for an unknown
    loss or option, with the known ones, and for a missing or unknown class.
    """
    known = loss_options(name)
    for option in options:
        if option not in known:
            hint = _suggestion(option, known)
            raise ValueError(f"loss {name!r} has no option {option!r}{hint}; its options: {', '.join(known)}")
    missing = [c for c in classes if c not in class_counts]
    unknown = [c for c in class_counts if c not in classes]
    if missing or unknown:
        shown = f"missing {missing[:10]}, unknown {unknown[:10]}"
        raise ValueError(f"class_counts does not match the classes: {shown}")
    counts = [float(class_counts[c]) for c in classes]
    return LOSSES[name].loss(class_counts=counts, n_samples=n_samples, **options)


def loss_names(task: str | None = None) -> list[str]:
    """Return the names of the losses for `task`, or of all losses, sorted."""
    return sorted(name for name, entry in LOSSES.items() if task in (None, entry.loss.task))


def loss_options(name: str) -> list[str]:
    """Return the option names of the loss `name`. Raises ValueError, with all names, for another one."""
    if name not in LOSSES:
        raise ValueError(
            f"unknown loss {name!r}{_suggestion(name, LOSSES)}; known: {', '.join(loss_names())}"
        )
    parameters = inspect.signature(LOSSES[name].loss.__init__).parameters.values()
    own = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return [*own, "reduction"]


def _suggestion(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
