"""Losses by name, with what holds for each; the tests read this table, so that a new loss is tested, too."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxrlt.losses.asymmetric import (
    AsymmetricLoss,
    AsymmetricPolynomialLoss,
    RobustAsymmetricLoss,
    RobustAsymmetricSingleLabelLoss,
)
from cxrlt.losses.base import Loss, Task
from cxrlt.losses.binary import BinaryCrossEntropy, FocalLoss
from cxrlt.losses.class_aware import ClassAwareLoss
from cxrlt.losses.distribution_balanced import DistributionBalancedLoss
from cxrlt.losses.hill import HillLoss
from cxrlt.losses.margin import LDAMLoss, LMFLoss
from cxrlt.losses.softmax import BalancedSoftmax, CrossEntropy, LogitAdjusted, SoftmaxFocalLoss

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


PREVALENCE = {"class_weights": "prevalence"}
EFFECTIVE = {"class_weights": "effective"}
NO_FOCUS = {"gamma_neg": 0, "gamma_pos": 0, "clip": 0}
NO_POLYNOMIAL = NO_FOCUS | {"epsilon_pos": 0, "epsilon_pos_pow": 0, "epsilon_neg": 0}
FRACTIONAL = {"gamma_neg": 0.5, "gamma_pos": 0.5}
DB_NEUTRAL = {"alpha": 0.5, "beta": 0, "neg_scale": 1, "init_bias": 0, "gamma": 0, "focal_balance": 1}
ONE_WRONG_CLASS = (
    "a wrong class that rises takes probability from another wrong one, whose loss falls by more"
)
SMOOTHED = "smoothed labels are met at p_t < 1, so beyond it the right logit must not rise further"

LOSSES: dict[str, Registration] = {
    "bce": Registration(
        BinaryCrossEntropy,
        neutral={},
        variants=(PREVALENCE, {"pos_weight": 3.0}, PREVALENCE | {"pos_weight": 3.0}),
    ),
    "focal": Registration(FocalLoss, neutral={"gamma": 0}, variants=({"gamma": 0.5, "alpha": 0.75},)),
    "asl": Registration(
        AsymmetricLoss,
        neutral=NO_FOCUS,
        variants=(PREVALENCE, FRACTIONAL, FRACTIONAL | {"clip": 0}, {"detach_focusing": True}),
        kink="clip",
        detach="detach_focusing",
    ),
    "apl": Registration(
        AsymmetricPolynomialLoss,
        neutral=NO_POLYNOMIAL,
        variants=(PREVALENCE, {"epsilon_neg": -0.5, "gamma_pos": 1}, {"detach_focusing": False}),
        kink="clip",
        detach="detach_focusing",
    ),
    "hill": Registration(HillLoss, neutral=None, variants=(PREVALENCE, {"hill_lambda": 2, "margin": 0.5})),
    "ral": Registration(
        RobustAsymmetricLoss,
        neutral=NO_POLYNOMIAL | {"hill_lambda": None},
        variants=(
            PREVALENCE,
            {"form": "released"},
            {"hill_lambda": None, "detach_focusing": True},
            FRACTIONAL | {"clip": 0, "epsilon_neg": 0.5},
        ),
        kink="clip",
        detach="detach_focusing",
    ),
    "class_aware": Registration(
        ClassAwareLoss,
        neutral=None,
        variants=(
            {"decoupled": False, "class_weights": "inverse_frequency"},
            {"base": 0.5, "margin": 0},
            {"detach_weights": True},
        ),
        kink="margin",
        detach="detach_weights",
    ),
    "db": Registration(
        DistributionBalancedLoss,
        neutral=DB_NEUTRAL,
        variants=({"gamma": 0.5, "mu": 0.3, "neg_scale": 5},),
        linear=False,
    ),
    "ce": Registration(
        CrossEntropy,
        neutral={},
        variants=(EFFECTIVE, {"label_smoothing": 0.1}, EFFECTIVE | {"label_smoothing": 0.1}),
        falling=(({"label_smoothing": 0.1}, SMOOTHED),),
    ),
    "softmax_focal": Registration(
        SoftmaxFocalLoss, neutral={"gamma": 0}, variants=(EFFECTIVE, {"gamma": 0.5})
    ),
    "ral_single": Registration(
        RobustAsymmetricSingleLabelLoss,
        neutral=None,
        variants=({"form": "released"}, FRACTIONAL | {"clip": 0}, {"detach_focusing": True}),
        kink="clip",
        detach="detach_focusing",
        falling=(({}, ONE_WRONG_CLASS),),
    ),
    "ldam": Registration(
        LDAMLoss,
        neutral={"max_margin": 0, "scale": 1},
        variants=(EFFECTIVE, {"class_weights": "margins"}, {"reweight_epoch": 0}),
    ),
    "lmf": Registration(
        LMFLoss,
        neutral={"alpha": 0, "beta": 1, "gamma": 0, "class_weights": "none"},
        variants=(EFFECTIVE, {"class_weights": "none"}),
    ),
    "balanced_softmax": Registration(BalancedSoftmax, neutral={}),
    "logit_adjusted": Registration(LogitAdjusted, neutral={"tau": 0}, variants=({"tau": 2},)),
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


def loss_names(task: Task | None = None) -> list[str]:
    """Names of the losses for `task`, or of all."""
    return [name for name, entry in LOSSES.items() if task in (None, entry.loss.task)]


def loss_options(name: str) -> list[str]:
    """Names of the options that loss `name` takes. Raises ValueError, listing the losses, if unknown."""
    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is not known{_nearest(name, LOSSES)}; known: {', '.join(LOSSES)}")
    parameters = inspect.signature(LOSSES[name].loss.__init__).parameters.values()
    own = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return [*own, "reduction"]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
