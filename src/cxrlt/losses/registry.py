"""Losses by name, with what holds for each, as the class of each says where it is defined.

The tests read LOSSES, so that a new loss is tested, too.
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
    """A loss and its guarantees.

    Of every loss hold, at its defaults and at its `variants`: finite value and gradient for logits within
    +-100 of any float type, NaN masking, parts of a batch that add up, compiled the same, and whatever else
    tests/losses/test_guarantees.py asks without looking here. The fields below say what differs.
    """

    loss: type[Loss]
    neutral: Options | None
    """Options at which, with equal class counts, it is cross-entropy (binary if multi-label), if any."""
    variants: tuple[Options, ...] = ()
    """Further options under the same guarantees."""
    kink: str | None = None
    """The option that holds the probability at which a negative's derivative jumps."""
    detach: str | None = None
    """The option that stops the gradient through a weight, so that it is not the value's derivative."""
    falling: tuple[tuple[Options, str], ...] = field(default=())
    """Options at which a negative's loss can fall, or a positive's rise, with its logit, and why.

    Everywhere the defaults are not named here they are monotone.
    """
    linear: bool = True
    """Whether the loss is linear in soft labels; False where a weight depends on all labels of a row."""
    cosines: Literal["needed", "possible"] | None = None
    """Whether logits should, or may, be cosines in [-1, 1], as of a head that says it gives them."""


PREVALENCE = {"class_weights": "prevalence"}
EFFECTIVE = {"class_weights": "effective"}
LOSSES: dict[str, Registration] = {}
LossClass = TypeVar("LossClass", bound=type[Loss])


def loss(name: str, *, neutral: Options | None, **guarantees: Any) -> Callable[[LossClass], LossClass]:
    """Decorator: recipes know the class as `name`; `neutral` and `guarantees` are fields of Registration.

    A module of this package that has one needs no mention elsewhere. Raises ValueError for a name twice.
    """

    def register(kind: LossClass) -> LossClass:
        if name in LOSSES:
            raise ValueError(f"two losses are called {name!r}: {LOSSES[name].loss} and {kind}")
        LOSSES[name] = Registration(kind, neutral, **guarantees)
        return kind

    return register


def create_loss(
    name: str,
    *,
    classes: Sequence[str],
    class_counts: Mapping[str, float],
    n_samples: int,
    **options: object,
) -> Loss:
    """The loss called `name`, its class counts put into the order of `classes` by name.

    `class_counts` maps every class to its positives among `n_samples` rows. Raises ValueError for an
    unknown loss or option (the known ones are listed) and for a missing or unknown class.
    """
    known = loss_options(name)
    for option in options:
        if option not in known:
            hint = _nearest(option, known)
            raise ValueError(f"loss {name!r} has no option {option!r}{hint}; its options: {', '.join(known)}")
    missing = [c for c in classes if c not in class_counts]
    unknown = [c for c in class_counts if c not in classes]
    if missing or unknown:
        shown = f"missing {missing[:10]}, unknown {unknown[:10]}"
        raise ValueError(f"class_counts does not fit the classes: {shown}")
    counts = [float(class_counts[c]) for c in classes]
    return LOSSES[name].loss(class_counts=counts, n_samples=n_samples, **options)


def loss_names(task: str | None = None) -> list[str]:
    """Names of the losses for `task`, or of all, in alphabetical order."""
    return sorted(name for name, entry in LOSSES.items() if task in (None, entry.loss.task))


def loss_options(name: str) -> list[str]:
    """Names of the options that loss `name` takes. Raises ValueError, listing the losses, if unknown."""
    if name not in LOSSES:
        raise ValueError(
            f"loss {name!r} is not known{_nearest(name, LOSSES)}; known: {', '.join(loss_names())}"
        )
    parameters = inspect.signature(LOSSES[name].loss.__init__).parameters.values()
    own = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return [*own, "reduction"]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
