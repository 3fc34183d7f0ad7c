"""Losses by name."""

import difflib
import inspect
from collections.abc import Mapping, Sequence

from cxrlt.losses.asymmetric import AsymmetricLoss, RobustAsymmetricLoss
from cxrlt.losses.base import Loss, Task
from cxrlt.losses.binary import BinaryCrossEntropy
from cxrlt.losses.softmax import CrossEntropy

LOSSES: dict[str, type[Loss]] = {
    "bce": BinaryCrossEntropy,
    "asl": AsymmetricLoss,
    "ral": RobustAsymmetricLoss,
    "ce": CrossEntropy,
}


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
    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is not known{_nearest(name, LOSSES)}; known: {', '.join(LOSSES)}")
    known = loss_options(name)
    for option in options:
        if option not in known:
            hint = _nearest(option, known)
            raise ValueError(f"loss {name!r} has no option {option!r}{hint}; its options: {', '.join(known)}")
    missing = [c for c in classes if c not in class_counts]
    unknown = [c for c in class_counts if c not in classes]
    if missing or unknown:
        raise ValueError(f"class_counts does not fit the classes: missing {missing}, unknown {unknown}")
    counts = [float(class_counts[c]) for c in classes]
    return LOSSES[name](class_counts=counts, n_samples=n_samples, **options)


def loss_names(task: Task | None = None) -> list[str]:
    """Names of the losses for `task`, or of all."""
    return [name for name, loss in LOSSES.items() if task in (None, loss.task)]


def loss_options(name: str) -> list[str]:
    """Names of the options that loss `name` takes."""
    parameters = inspect.signature(LOSSES[name].__init__).parameters.values()
    own = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return [*own, "reduction"]


def _nearest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
