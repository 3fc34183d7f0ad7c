"""Softmax cross-entropy, focal loss, logit adjustment and balanced softmax."""

from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_at_least, require_below_one, require_one_of
from cxrlt.losses.class_weights import complement_weights, effective_number_weights, positive_counts
from cxrlt.losses.probabilities import softmax_probabilities
from cxrlt.losses.registry import COMPLEMENT, EFFECTIVE, loss
from cxrlt.losses.singlelabel import SingleLabelLoss

SoftmaxWeights = Literal["none", "effective", "complement"]

SMOOTHED = "with label smoothing the minimum is at p_t < 1, so beyond it the loss rises with the right logit"


class WeightedSoftmaxLoss(SingleLabelLoss):
    """Base class with the option class_weights.

    "effective": effective-number weights (beta .9999, sum c). "complement": 1 - n / SUM n, scaled to sum c.
    """

    class_weight: Tensor | None

    def __init__(self, class_weights: SoftmaxWeights, **shared: Unpack[SharedOptions]) -> None:
        super().__init__(**shared)
        require_one_of("class_weights", class_weights, get_args(SoftmaxWeights))
        self.register_buffer("class_weight", None, persistent=False)
        if class_weights != "none":
            weights = effective_number_weights if class_weights == "effective" else complement_weights
            self.class_weight = weights(positive_counts(shared.get("class_counts"))).float()

    def weighted(self, loss: Tensor) -> Tensor:
        """Return the loss (n, c) times the class weights, if any."""
        return loss if self.class_weight is None else loss * self.class_weight.to(loss)


@loss(
    "ce",
    neutral={},
    variants=(EFFECTIVE, COMPLEMENT, {"label_smoothing": 0.1}, EFFECTIVE | {"label_smoothing": 0.1}),
    non_monotone=(({"label_smoothing": 0.1}, SMOOTHED),),
)
class CrossEntropy(WeightedSoftmaxLoss):
    """-w_t (1-e) log p_t - e/c SUM_j w_j log p_j, p = softmax(logits), e = `label_smoothing`.

    `class_weights`: "effective" (effective-number weights, beta .9999, sum c) or "complement" (1 - n / SUM n,
    sum c: the baseline BWCCE of the LMF paper); then "mean" and "batchmean" divide by the weights of the
    rows, as torch does for class ids, also for soft labels. The unweighted loss is a proper score: its
    population minimiser is the prior. With smoothing its minimum is at p_t < 1, so a higher logit of the
    right class can raise the loss.
    """

    def __init__(
        self,
        class_weights: SoftmaxWeights = "none",
        label_smoothing: float = 0,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(class_weights, **shared)
        require_below_one(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def per_class(self, logits: Tensor) -> Tensor:
        """See `SingleLabelLoss.per_class`."""
        loss = self.weighted(-F.log_softmax(logits, dim=1))
        if self.label_smoothing == 0:
            return loss
        return (1 - self.label_smoothing) * loss + self.label_smoothing * loss.mean(dim=1, keepdim=True)

    def denominator_weights(self) -> tuple[Tensor | None, ...]:
        """See `SingleLabelLoss.denominator_weights`."""
        return (self.class_weight,)


@loss("softmax_focal", neutral={"gamma": 0}, variants=(EFFECTIVE, {"gamma": 0.5}))
class SoftmaxFocalLoss(WeightedSoftmaxLoss):
    """-w_t (1-p_t)^gamma log p_t, p = softmax(logits).

    Lin et al., ICCV 2017, gamma 2, over exclusive classes. `class_weights="effective"`: effective-number
    weights (beta .9999, sum c). "mean" and "batchmean" are the plain mean over rows, also with weights, as in
    common implementations. Not a proper score: probabilities of rare classes are too high. gamma = 0 is
    cross-entropy.
    """

    def __init__(
        self, gamma: float = 2, class_weights: SoftmaxWeights = "none", **shared: Unpack[SharedOptions]
    ) -> None:
        super().__init__(class_weights, **shared)
        require_at_least(0, gamma=gamma)
        self.gamma = gamma

    def per_class(self, logits: Tensor) -> Tensor:
        """See `SingleLabelLoss.per_class`."""
        entry = softmax_probabilities(logits)
        return self.weighted(-torch.exp(self.gamma * entry.log_one_minus_p) * entry.log_p)


@loss("logit_adjusted", neutral={"tau": 0}, variants=({"tau": 2},))
class LogitAdjusted(SingleLabelLoss):
    """-log softmax(logits + tau log pi)_t, pi = prior of the classes.

    Menon et al., ICLR 2021, tau 1; mean over rows. The prior is added only in training: predict with the
    plain logits, whose population minimiser at tau 1 is equal logits. Only the ratios of `class_counts`
    matter; a count of 0 counts as 1, while the original adds 1e-12 to the prior. tau = 0 is cross-entropy.
    """

    log_prior: Tensor

    def __init__(self, tau: float = 1, **shared: Unpack[SharedOptions]) -> None:
        super().__init__(**shared)
        require_at_least(0, tau=tau)
        counts = positive_counts(shared.get("class_counts"))
        log_prior = tau * torch.log(counts / counts.sum())
        self.register_buffer("log_prior", log_prior.float(), persistent=False)

    def per_class(self, logits: Tensor) -> Tensor:
        """See `SingleLabelLoss.per_class`."""
        return -F.log_softmax(logits + self.log_prior.to(logits), dim=1)


@loss("balanced_softmax", neutral={})
class BalancedSoftmax(LogitAdjusted):
    """-log( n_t e^z_t / SUM_j n_j e^z_j ), z = logits, n = `class_counts`.

    Ren et al., NeurIPS 2020; mean over rows. Equal to `LogitAdjusted` with tau 1; in the same way,
    predict with the plain logits, and a count of 0 counts as 1. With equal counts it is cross-entropy.
    """

    def __init__(self, **shared: Unpack[SharedOptions]) -> None:
        super().__init__(tau=1, **shared)
