"""Losses with larger margins for rarer classes: LDAM and LMF."""

from typing import Literal, Unpack, get_args

import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_at_least, require_one_of
from cxrlt.losses.class_weights import effective_number_weights, margins, positive_counts
from cxrlt.losses.probabilities import softmax_probabilities
from cxrlt.losses.registry import EFFECTIVE, loss
from cxrlt.losses.singlelabel import SingleLabelLoss
from cxrlt.losses.softmax import SoftmaxFocalLoss

MarginWeights = Literal["none", "margins", "effective"]


@loss(
    "ldam",
    neutral={"max_margin": 0, "scale": 1},
    variants=(EFFECTIVE, {"class_weights": "margins"}, {"reweight_epoch": 0}),
    cosines="needed",
)
class LDAMLoss(SingleLabelLoss):
    """w_t CE(s (z - m_t e_t), t), m_j = max_margin (n_min / n_j)^(1/4), z = logits, s = `scale`.

    Cao et al., NeurIPS 2019; margin .5 and scale 30 of its code. "mean" and "batchmean" divide by the weights
    of the rows. `class_weights`: "none", "effective" (effective-number weights, beta .9999, sum c) or
    "margins" (the m_j themselves, as in the code of LMF). `reweight_epoch=k` defers the effective-number
    weights: uniform before epoch k (set by `set_epoch`), effective-number from epoch k on. A count of 0
    counts as 1.

    Caution: z should be a cosine, from a normalised head. With the logits of a linear head, scale 30 gives
    gradients up to 30 and a saturated softmax, and training can diverge. Probabilities are softmax(s z), s =
    `logit_scale`. max_margin = 0 and scale = 1 is cross-entropy.
    """

    margin: Tensor
    class_weight: Tensor

    def __init__(
        self,
        max_margin: float = 0.5,
        scale: float = 30,
        class_weights: MarginWeights = "none",
        reweight_epoch: int | None = None,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**shared)
        require_at_least(0, max_margin=max_margin)
        require_one_of("class_weights", class_weights, get_args(MarginWeights))
        if not scale > 0:
            raise ValueError(f"scale={scale} must be > 0")
        if class_weights == "margins" and (max_margin == 0 or reweight_epoch is not None):
            raise ValueError(
                "class_weights='margins' needs max_margin > 0 and no reweight_epoch, "
                "which uses effective-number weights"
            )
        self.logit_scale, self.reweight_epoch = scale, reweight_epoch
        self.weighted = class_weights != "none" if reweight_epoch is None else reweight_epoch <= 0
        counts = positive_counts(shared.get("class_counts"))
        self.register_buffer("margin", margins(counts, max_margin).float(), persistent=False)
        weights = (
            margins(counts, max_margin) if class_weights == "margins" else effective_number_weights(counts)
        )
        self.register_buffer("class_weight", weights.float(), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """See `Loss.set_epoch`."""
        if self.reweight_epoch is not None:
            self.weighted = epoch >= self.reweight_epoch

    def per_class(self, logits: Tensor) -> Tensor:
        """See `SingleLabelLoss.per_class`."""
        entry = softmax_probabilities(self.logit_scale * logits)
        # as a function of the odds against the class: the margin multiplies them by e^(s m)
        loss = F.softplus(entry.log_one_minus_p - entry.log_p + self.logit_scale * self.margin.to(logits))
        return loss * self.class_weight.to(loss) if self.weighted else loss

    def denominator_weights(self) -> tuple[Tensor | None, ...]:
        """See `SingleLabelLoss.denominator_weights`."""
        return (self.class_weight if self.weighted else None,)


@loss(
    "lmf",
    neutral={"alpha": 0, "beta": 1, "gamma": 0, "class_weights": "none"},
    variants=(EFFECTIVE, {"class_weights": "none"}),
    cosines="possible",
)
class LMFLoss(SingleLabelLoss):
    """alpha LDAM + beta SUM_i w_t (1-p_t)^gamma (-log p_t) / n, p = softmax(logits), n rows.

    Sadi et al., arXiv 2212.12741; alpha 1.5, beta 1 as in its training code (the class defaults are 1), gamma
    1.5, margin .5, scale 30. LDAM is divided by the weights of the rows, the focal term by their number: two
    parts with one denominator each. `class_weights`: "margins" uses the LDAM margins as weights of both
    terms, as the released code does (not in the paper); "none"; "effective" (effective number, beta .9999).

    Caution: the released head is a linear layer, so the scale acts on raw logits, and LDAM dominates the
    focal term; see `LDAMLoss`. The released code has no deferred re-weighting. alpha 0, beta 1, gamma 0
    without weights is cross-entropy.
    """

    def __init__(
        self,
        alpha: float = 1.5,
        beta: float = 1,
        gamma: float = 1.5,
        max_margin: float = 0.5,
        scale: float = 30,
        class_weights: MarginWeights = "margins",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**shared)
        require_at_least(0, alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta
        self.ldam = LDAMLoss(max_margin, scale, class_weights, **shared)
        self.focal = SoftmaxFocalLoss(gamma, **shared)
        if class_weights != "none":
            self.focal.class_weight = self.ldam.class_weight

    def parts(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See `SingleLabelLoss.parts`."""
        return self.alpha * self.ldam.per_class(logits), self.beta * self.focal.per_class(logits)

    def per_class(self, logits: Tensor) -> Tensor:
        """See `SingleLabelLoss.per_class`."""
        ldam, focal = self.parts(logits)
        return ldam + focal

    def denominator_weights(self) -> tuple[Tensor | None, ...]:
        """See `SingleLabelLoss.denominator_weights`."""
        return *self.ldam.denominator_weights(), None
