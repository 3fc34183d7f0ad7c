"""The asymmetric loss, its polynomial form, and the robust asymmetric loss, each built on the one before.

Notation: p = sigmoid(logit), or the softmax probability; p_tau = max(p - clip, 0) is the shifted probability
of the negatives, so that a negative with p <= clip has neither loss nor gradient.
"""

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from cxrlt.losses.base import SharedOptions, power, require_at_least, require_below_one, require_one_of
from cxrlt.losses.multilabel import ClassWeights, MultiLabelLoss
from cxrlt.losses.probabilities import Probabilities, sigmoid_probabilities, softmax_probabilities
from cxrlt.losses.registry import PREVALENCE, loss
from cxrlt.losses.singlelabel import SingleLabelLoss

RalForm = Literal["paper", "released"]

NO_FOCUS = {"gamma_neg": 0, "gamma_pos": 0, "clip": 0}
NO_POLYNOMIAL = NO_FOCUS | {"epsilon_pos": 0, "epsilon_pos_pow": 0, "epsilon_neg": 0}
FRACTIONAL = {"gamma_neg": 0.5, "gamma_pos": 0.5}
ONE_WRONG_CLASS = (
    "a wrong class that rises takes probability from another wrong one, whose loss falls by more"
)


@loss(
    "asl",
    neutral=NO_FOCUS,
    variants=(PREVALENCE, FRACTIONAL, FRACTIONAL | {"clip": 0}, {"detach_focusing": True}),
    kink="clip",
    detach="detach_focusing",
)
class AsymmetricLoss(MultiLabelLoss):
    """ASL: L+ = -(1-p)^gamma_pos log p;  L- = -p_tau^gamma_neg log(1 - p_tau).

    Ridnik et al., ICCV 2021, Eq. 7; gamma_neg 4, gamma_pos 1, clip .05 are the defaults of its code (whose
    training script sets gamma_pos 0). `detach_focusing=True` stops the gradient through the focusing weights
    (1-p)^gamma_pos and p_tau^gamma_neg: the default of the code's plain class, while its optimised class,
    said to be the same, lets it through; values agree, gradients do not. The code takes the sum over rows
    and classes, timm the sum over classes and mean over rows, mmpretrain the mean.

    Traps: population minimiser at prevalence .002 is p = .248, so thresholds must be tuned and probabilities
    not be averaged with those of other losses. A bias at the prior puts negatives of every class rarer than
    `clip` where nothing pushes them. gamma_neg = gamma_pos = clip = 0 is binary cross-entropy.
    `class_weights="prevalence"` is the weighted ASL of the CXR-LT 2023 winner, with the mean over entries.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float = 0.05,
        detach_focusing: bool = False,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(class_weights, **shared)
        require_at_least(0, gamma_neg=gamma_neg, gamma_pos=gamma_pos)
        require_below_one(clip=clip)
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip
        self.detach_focusing = detach_focusing

    def positive_term(self, logits: Tensor) -> Tensor:
        return self.positive_at(sigmoid_probabilities(logits))

    def negative_term(self, logits: Tensor) -> Tensor:
        return self.negative_at(sigmoid_probabilities(logits))

    def positive_at(self, entry: Probabilities) -> Tensor:
        """L+ at given probabilities."""
        return self._focus(torch.exp(self.gamma_pos * entry.log_miss)) * self.positive_series(entry)

    def negative_at(self, entry: Probabilities) -> Tensor:
        """L- at given probabilities."""
        shifted = self._shifted(entry)
        # through the logarithm itself where nothing is shifted: there 1 - p rounds to 0
        log = entry.log_miss if self.clip == 0 else torch.log1p(-shifted)
        return self._focus(power(shifted, self.gamma_neg)) * self.negative_series(entry, shifted, -log)

    def positive_series(self, entry: Probabilities) -> Tensor:
        """What the focusing weight of the positives multiplies."""
        return -entry.log_p

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        """What the focusing weight of the negatives multiplies; `log` is -log(1 - p_tau)."""
        return log

    def _shifted(self, entry: Probabilities) -> Tensor:
        """p_tau."""
        return (entry.p - self.clip).clamp(min=0)

    def _focus(self, weight: Tensor) -> Tensor:
        return weight.detach() if self.detach_focusing else weight


@loss(
    "apl",
    neutral=NO_POLYNOMIAL,
    variants=(PREVALENCE, {"epsilon_neg": -0.5, "gamma_pos": 1}, {"detach_focusing": False}),
    kink="clip",
    detach="detach_focusing",
)
class AsymmetricPolynomialLoss(AsymmetricLoss):
    """APL: the asymmetric loss with its first Taylor coefficients set free.

    L+ = (1-p)^gamma_pos [-log p - epsilon_pos (1-p) - epsilon_pos_pow/2 (1-p)^2], that is coefficients
         1 - epsilon_pos, (1 - epsilon_pos_pow)/2, and 1/m beyond: 0, 1.75, 1/3, ... at the defaults;
    L- = p_tau^gamma_neg [-log(1-p_tau) - epsilon_neg p_tau], that is 1 - epsilon_neg, and 1/n beyond.

    Huang et al., ICASSP 2023, arXiv 2304.05361; defaults and detached focusing as in its code, which takes
    the sum over rows and classes (hence a loss of 40 and more) and multiplies `epsilon_neg` with 1 - p_tau
    where the formula has p_tau: inert at its default 0. The coefficients are tuned per data set there.
    Population minimiser at prevalence .002: p = .253. All of it 0 is binary cross-entropy.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 0,
        clip: float = 0.05,
        epsilon_pos: float = 1,
        epsilon_pos_pow: float = -2.5,
        epsilon_neg: float = 0,
        detach_focusing: bool = True,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(gamma_neg, gamma_pos, clip, detach_focusing, class_weights, **shared)
        self.epsilon_pos, self.epsilon_pos_pow, self.epsilon_neg = epsilon_pos, epsilon_pos_pow, epsilon_neg

    def positive_series(self, entry: Probabilities) -> Tensor:
        return -entry.log_p - self.epsilon_pos * entry.miss - self.epsilon_pos_pow / 2 * entry.miss**2

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        return log - self.epsilon_neg * shifted


@loss(
    "ral",
    neutral=NO_POLYNOMIAL | {"hill_lambda": None},
    variants=(
        PREVALENCE,
        {"form": "released"},
        {"hill_lambda": None, "detach_focusing": True},
        FRACTIONAL | {"clip": 0, "epsilon_neg": 0.5},
    ),
    kink="clip",
    detach="detach_focusing",
)
class RobustAsymmetricLoss(AsymmetricPolynomialLoss):
    """RAL: the polynomial loss with a Hill factor lambda - p on the negatives, which forgives missed labels.

    L+ as in `AsymmetricPolynomialLoss`, in both forms.
    form="paper" (Eq. 6):   L- = (lambda - p) p_tau^gamma_neg [-log(1-p_tau) - epsilon_neg p_tau].
    form="released" (the published code's arithmetic):
                            L- = (lambda - p) p^2 (lambda - 1 + p_tau) p_tau^gamma_neg
                                 [-log(1-p_tau) - epsilon_neg (1-p_tau)].

    Park et al., ICCVW CVAMD 2023, arXiv 2308.05542; defaults of its code, which sums over rows and classes.
    The released form starts as the 7th power of p where the paper's starts as the 5th, and lets the gradient
    through focusing weights and Hill factors. `detach_focusing` stops it at the focusing weights only.
    `hill_lambda=None` drops the Hill factors; then all of the rest 0 is binary cross-entropy.

    Traps: population minimiser at prevalence .002 is p = .245 (paper) and .346 (released): thresholds must be
    tuned, and a .5 cut means something else in each form.
    """

    def __init__(
        self,
        form: RalForm = "paper",
        gamma_neg: float = 4,
        gamma_pos: float = 0,
        clip: float = 0.05,
        hill_lambda: float | None = 1.5,
        epsilon_pos: float = 1,
        epsilon_pos_pow: float = -2.5,
        epsilon_neg: float = 0,
        detach_focusing: bool = False,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        polynomial = (epsilon_pos, epsilon_pos_pow, epsilon_neg)
        super().__init__(gamma_neg, gamma_pos, clip, *polynomial, detach_focusing, class_weights, **shared)
        require_one_of("form", form, get_args(RalForm))
        if hill_lambda is not None and not hill_lambda >= 1:
            raise ValueError(
                f"hill_lambda={hill_lambda} must be >= 1: below, the loss of confident negatives is negative"
            )
        self.form, self.hill_lambda = form, hill_lambda

    def negative_at(self, entry: Probabilities) -> Tensor:
        loss = super().negative_at(entry)
        if self.hill_lambda is None:
            return loss
        loss = (self.hill_lambda - entry.p) * loss
        if self.form == "paper":
            return loss
        return loss * entry.p**2 * (self.hill_lambda - 1 + self._shifted(entry))

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        return log - self.epsilon_neg * (shifted if self.form == "paper" else 1 - shifted)


@loss(
    "ral_single",
    neutral=None,
    variants=({"form": "released"}, FRACTIONAL | {"clip": 0}, {"detach_focusing": True}),
    kink="clip",
    detach="detach_focusing",
    falling=(({}, ONE_WRONG_CLASS),),
)
class RobustAsymmetricSingleLabelLoss(SingleLabelLoss):
    """RAL over exclusive classes: L+(p_t) + SUM over j != t of L-(p_j), p = softmax(logits).

    L+, L- and their options are those of `RobustAsymmetricLoss`, computed from log p and log(1 - p).

    The published `RalSingleLoss` is another thing and not offered: it overwrites the probabilities with its
    polynomial terms without masking them by the label, takes one eps = .1 both as label smoothing and as
    floor of the probabilities, so that the true class learns nothing below p = .1, and takes a logarithm
    without a floor, so that logits of +-200 give NaN; with gamma_pos 0 it is little but label-smoothed
    cross-entropy. It takes the mean over rows, as "batchmean" here.

    Traps: raising the logit of one wrong class can lower the loss, because it takes probability from another
    wrong class; no option makes it cross-entropy, which has no term for the other classes.
    """

    def __init__(
        self,
        form: RalForm = "paper",
        gamma_neg: float = 4,
        gamma_pos: float = 0,
        clip: float = 0.05,
        hill_lambda: float | None = 1.5,
        epsilon_pos: float = 1,
        epsilon_pos_pow: float = -2.5,
        epsilon_neg: float = 0,
        detach_focusing: bool = False,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**shared)
        shape = (form, gamma_neg, gamma_pos, clip, hill_lambda)
        self.ral = RobustAsymmetricLoss(*shape, epsilon_pos, epsilon_pos_pow, epsilon_neg, detach_focusing)

    def per_class(self, logits: Tensor) -> Tensor:
        entry = softmax_probabilities(logits)
        negative = self.ral.negative_at(entry)
        return self.ral.positive_at(entry) + negative.sum(dim=1, keepdim=True) - negative
