"""The class-aware loss."""

from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_below_one, require_one_of
from cxrlt.losses.class_weights import inverse_frequency_weights, positive_counts, prevalence
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.registry import loss

ClassAwareWeights = Literal["uniform", "inverse_frequency"]


@loss(
    "class_aware",
    neutral=None,
    variants=(
        {"decoupled": False, "class_weights": "inverse_frequency"},
        {"base": 0.5, "margin": 0},
        {"detach_weights": True},
    ),
    kink="margin",
    detach="detach_weights",
)
class ClassAwareLoss(MultiLabelLoss):
    """L+ = -w_i w+ log p;  L- = -w_i w- log(1 - p_m);  p = sigmoid(logit), p_m = max(p - margin, 0).

    w+ = 1 - a_i^(1-p) and w- = 1 - (1-a_i)^p, where a_i is the prevalence of class i. For a rare class,
    positives keep about their full weight, and negatives get a weight of about the prevalence. From a
    capstone project of FPT University, 2023, published only as slides; margin .2 is theirs. The slides do not
    define three details, which are options here: `decoupled=False` uses one base for both signs, w- = 1 -
    a_i^p; w_i is `class_weights`: "uniform" or "inverse_frequency" = (n_max/n_i)^(1/4) scaled to mean 1;
    `detach_weights` stops the gradient through w+ and w-. `base` replaces every a_i by one number in (0, 1);
    .5 removes the class-awareness. An a_i of 0 or 1 is clamped to [1/T, 1 - 1/T], T = n_samples.

    Caution: the population minimiser is p = .637 at prevalence .002 and .588 at .3. With a threshold of .5
    everything is positive, rare classes first; without tuned thresholds only rankings are useful. A negative
    with p <= margin has no gradient. No options make it binary cross-entropy.
    """

    positive_base: Tensor
    negative_base: Tensor

    def __init__(
        self,
        margin: float = 0.2,
        decoupled: bool = True,
        base: float | None = None,
        class_weights: ClassAwareWeights = "uniform",
        detach_weights: bool = False,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**shared)
        require_below_one(margin=margin)
        require_one_of("class_weights", class_weights, get_args(ClassAwareWeights))
        if base is not None and not 0 < base < 1:
            raise ValueError(f"base={base} must be in (0, 1), or None for the prevalence of each class")
        self.margin, self.detach_weights = margin, detach_weights
        if class_weights == "inverse_frequency":
            weights = inverse_frequency_weights(positive_counts(shared.get("class_counts"))).float()
            self.positive_weight, self.negative_weight = weights, weights.clone()
        if base is None:
            a = prevalence(shared.get("class_counts"), shared.get("n_samples"), clamped=True)
        else:
            a = torch.tensor([base], dtype=torch.float64)
        log_a, log_rest = torch.log(a).float(), torch.log1p(-a).float()
        self.register_buffer("positive_base", log_a, persistent=False)
        self.register_buffer("negative_base", log_rest if decoupled else log_a.clone(), persistent=False)

    def positive_term(self, logits: Tensor) -> Tensor:
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        return self._weight(self.positive_base, torch.sigmoid(-logits)) * F.softplus(-logits)

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        p = torch.sigmoid(logits)
        log = F.softplus(logits) if self.margin == 0 else -torch.log1p(-(p - self.margin).clamp(min=0))
        return self._weight(self.negative_base, p) * log

    def _weight(self, log_base: Tensor, exponent: Tensor) -> Tensor:
        """Return 1 - base^exponent (n, c)."""
        weight = -torch.expm1(log_base.to(exponent) * exponent)
        return weight.detach() if self.detach_weights else weight
