"""The Hill loss."""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_at_least
from cxrlt.losses.multilabel import ClassWeights, MultiLabelLoss
from cxrlt.losses.registry import PREVALENCE, loss


@loss("hill", neutral=None, variants=(PREVALENCE, {"hill_lambda": 2, "margin": 0.5}))
class HillLoss(MultiLabelLoss):
    """L+ = -(1-p_m)^gamma log p_m, p_m = sigmoid(logit - margin);  L- = (lambda - p) p^2, p = sigmoid(logit).

    Zhang et al., arXiv 2112.07368, for labels with missing positives: L- is flat near p = 1, so a negative
    that looks like a missing positive has almost no gradient. Defaults of its code (which recommends margin
    .5 to 1 and sums over rows and classes). lambda < 1.5 is an error: L- would fall beyond p = 2/3 lambda <
    1, and raise confident negatives.

    Caution: L- is bounded, so a confidently wrong negative has almost no gradient. The population minimiser
    is p = .027 at prevalence .002 and p = .774 at .3.
    """

    def __init__(
        self,
        hill_lambda: float = 1.5,
        margin: float = 1,
        gamma: float = 2,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(class_weights, **shared)
        if not hill_lambda >= 1.5:
            raise ValueError(
                f"hill_lambda={hill_lambda} must be >= 1.5: below, the loss of a negative falls beyond "
                f"p = 2/3 lambda and raises confident negatives"
            )
        require_at_least(0, margin=margin, gamma=gamma)
        self.hill_lambda, self.margin, self.gamma = hill_lambda, margin, gamma

    def positive_term(self, logits: Tensor) -> Tensor:
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        shifted = logits - self.margin
        return torch.exp(self.gamma * F.logsigmoid(-shifted)) * F.softplus(-shifted)

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        p = torch.sigmoid(logits)
        return (self.hill_lambda - p) * p**2
