"""The asymmetric loss (ASL), its polynomial form (APL), and the robust asymmetric loss (RAL).

Notation: p = sigmoid(logit), or the softmax probability; p_tau = max(p - clip, 0) is the shifted probability
of negatives: a negative with p <= clip has no loss and no gradient.
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
    "a higher logit of one wrong class lowers the probability of another one, whose loss falls by more"
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

    Ridnik et al., ICCV 2021, Eq. 7; gamma_neg 4, gamma_pos 1, clip .05 are the defaults of its code (its
    training script sets gamma_pos 0). `detach_focusing=True` stops the gradient through the focusing weights
    (1-p)^gamma_pos and p_tau^gamma_neg. This is the default of `AsymmetricLoss` in that code; its
    `AsymmetricLossOptimized`, described as equal, does not detach: same values, other gradients. The code
    sums over rows and classes, timm sums over classes and averages over rows, mmpretrain averages over both.

    Caution: the population minimiser at prevalence .002 is p = .248, so tune thresholds, and do not average
    probabilities with those of other losses. With a bias at the prior, negatives of a class rarer than `clip`
    start without a gradient. gamma_neg = gamma_pos = clip = 0 is binary cross-entropy.
    `class_weights="prevalence"` is the weighted ASL of the winner of CXR-LT 2023 (who averaged over entries).
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
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        return self.positive_at(sigmoid_probabilities(logits))

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        return self.negative_at(sigmoid_probabilities(logits))

    def positive_at(self, entry: Probabilities) -> Tensor:
        """Return L+ (n, c) from probabilities (n, c)."""
        return self._focus(torch.exp(self.gamma_pos * entry.log_one_minus_p)) * self.positive_series(entry)

    def negative_at(self, entry: Probabilities) -> Tensor:
        """Return L- (n, c) from probabilities (n, c)."""
        shifted = self._shifted(entry)
        # without a shift use log(1 - p) itself, because 1 - p can round to 0
        log = entry.log_one_minus_p if self.clip == 0 else torch.log1p(-shifted)
        return self._focus(power(shifted, self.gamma_neg)) * self.negative_series(entry, shifted, -log)

    def positive_series(self, entry: Probabilities) -> Tensor:
        """Return the factor (n, c) of the focusing weight in L+."""
        return -entry.log_p

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        """Return the factor (n, c) of the focusing weight in L-; `log` is -log(1 - p_tau), (n, c)."""
        return log

    def _shifted(self, entry: Probabilities) -> Tensor:
        """Return p_tau (n, c)."""
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
    """APL: the asymmetric loss with free first Taylor coefficients.

    L+ = (1-p)^gamma_pos [-log p - epsilon_pos (1-p) - epsilon_pos_pow/2 (1-p)^2], with coefficients 1 -
    epsilon_pos, (1 - epsilon_pos_pow)/2, and 1/m beyond: 0, 1.75, 1/3, ... at the defaults; L- =
    p_tau^gamma_neg [-log(1-p_tau) - epsilon_neg p_tau], with coefficients 1 - epsilon_neg, and 1/n beyond.

    Huang et al., ICASSP 2023, arXiv 2304.05361; defaults and `detach_focusing` as in its code. That code sums
    over rows and classes (so its loss is 40 and more), and multiplies `epsilon_neg` by 1 - p_tau, not p_tau
    as in the formula, which has no effect at its default 0. The paper tunes the coefficients per data set.
    Population minimiser at prevalence .002: p = .253. With all options 0 it is binary cross-entropy.
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
        """See `AsymmetricLoss.positive_series`."""
        return (
            -entry.log_p
            - self.epsilon_pos * entry.one_minus_p
            - self.epsilon_pos_pow / 2 * entry.one_minus_p**2
        )

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        """See `AsymmetricLoss.negative_series`."""
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
    """RAL: the polynomial loss with a Hill factor lambda - p on negatives, for missing positive labels.

    L+ as in `AsymmetricPolynomialLoss`, in both forms.
    form="paper" (Eq. 6):   L- = (lambda - p) p_tau^gamma_neg [-log(1-p_tau) - epsilon_neg p_tau].
    form="released" (as computed by the published code):
                            L- = (lambda - p) p^2 (lambda - 1 + p_tau) p_tau^gamma_neg
                                 [-log(1-p_tau) - epsilon_neg (1-p_tau)].

    Park et al., ICCVW CVAMD 2023, arXiv 2308.05542; defaults of its code, which sums over rows and classes.
    For small p the released form grows with the 7th power of p, the form of the paper with the 5th. The
    gradient goes through focusing weights and Hill factors; `detach_focusing` stops it only at the focusing
    weights. `hill_lambda=None` removes the Hill factors; with all other options 0 it is then binary
    cross-entropy.

    Caution: the population minimiser at prevalence .002 is p = .245 (paper) and .346 (released). Tune
    thresholds; a threshold of .5 has another meaning in each form.
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
                f"hill_lambda={hill_lambda} must be >= 1: below 1 the loss of confident negatives is negative"
            )
        self.form, self.hill_lambda = form, hill_lambda

    def negative_at(self, entry: Probabilities) -> Tensor:
        """See `AsymmetricLoss.negative_at`."""
        loss = super().negative_at(entry)
        if self.hill_lambda is None:
            return loss
        loss = (self.hill_lambda - entry.p) * loss
        if self.form == "paper":
            return loss
        return loss * entry.p**2 * (self.hill_lambda - 1 + self._shifted(entry))

    def negative_series(self, entry: Probabilities, shifted: Tensor, log: Tensor) -> Tensor:
        """See `AsymmetricLoss.negative_series`."""
        return log - self.epsilon_neg * (shifted if self.form == "paper" else 1 - shifted)


@loss(
    "ral_single",
    neutral=None,
    variants=({"form": "released"}, FRACTIONAL | {"clip": 0}, {"detach_focusing": True}),
    kink="clip",
    detach="detach_focusing",
    non_monotone=(({}, ONE_WRONG_CLASS),),
)
class RobustAsymmetricSingleLabelLoss(SingleLabelLoss):
    """RAL over exclusive classes: L+(p_t) + SUM over j != t of L-(p_j), p = softmax(logits).

    L+, L- and their options are those of `RobustAsymmetricLoss`, computed from log p and log(1 - p).

    The published `RalSingleLoss` is different and not included. It replaces probabilities by polynomial terms
    without a mask by the label, uses eps = .1 both for label smoothing and as the lower limit of
    probabilities (so the true class has no gradient below p = .1), and takes a logarithm without a limit
    (logits of +-200 give NaN). With gamma_pos 0 it is almost label-smoothed cross-entropy. It averages over
    rows, as "batchmean" does here.

    Caution: a higher logit of one wrong class can lower the loss, because another wrong class loses
    probability. No options make it cross-entropy, which has no term for the wrong classes.
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
        """See `SingleLabelLoss.per_class`."""
        entry = softmax_probabilities(logits)
        negative = self.ral.negative_at(entry)
        return self.ral.positive_at(entry) + negative.sum(dim=1, keepdim=True) - negative
