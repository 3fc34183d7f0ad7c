"""Binary cross-entropy and the focal loss."""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_at_least
from cxrlt.losses.multilabel import ClassWeights, MultiLabelLoss
from cxrlt.losses.registry import PREVALENCE, loss


@loss("bce", neutral={}, variants=(PREVALENCE, {"pos_weight": 3.0}, PREVALENCE | {"pos_weight": 3.0}))
class BinaryCrossEntropy(MultiLabelLoss):
    """L+ = -w log p;  L- = -log(1 - p);  p = sigmoid(logit), w = `pos_weight`, one number or (c,).

    A common w is (T - n)/n for n positives among T rows; on CXR-LT it reaches 487, which is unstable: use its
    square root or a limit. `class_weights="prevalence"` is the milder e^(1 - pi) and e^pi of CheXFusion,
    whose code averages over all entries; together with `pos_weight` the two are multiplied. The unweighted
    loss is a proper score: its population minimiser is the prevalence. Only its probabilities need no
    calibration.
    """

    def __init__(
        self,
        pos_weight: float | Sequence[float] | None = None,
        class_weights: ClassWeights = "none",
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(class_weights, **shared)
        if pos_weight is None:
            return
        weight = torch.as_tensor(pos_weight, dtype=torch.float32)
        if weight.ndim > 1 or not bool((weight >= 0).all()):
            raise ValueError("pos_weight must be one number >= 0, or one per class")
        self.positive_weight = weight if self.positive_weight is None else weight * self.positive_weight

    def positive_term(self, logits: Tensor) -> Tensor:
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        return F.softplus(-logits)

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        return F.softplus(logits)


@loss("focal", neutral={"gamma": 0}, variants=({"gamma": 0.5, "alpha": 0.75},))
class FocalLoss(MultiLabelLoss):
    """L+ = -alpha (1-p)^gamma log p;  L- = -(1-alpha) p^gamma log(1-p);  p = sigmoid(logit).

    Lin et al., ICCV 2017, with gamma = 2. `alpha=None`, the default, gives positives and negatives weight 1.
    The alpha = .25 of detection papers is the weight of the positives; rare findings do not need a lower
    weight. torchvision returns unreduced entries, mmpretrain their mean. Population minimiser at prevalence
    .002: p = .092; probabilities are too close to 1/2. gamma = 0 without alpha is binary cross-entropy.
    """

    def __init__(self, gamma: float = 2, alpha: float | None = None, **shared: Unpack[SharedOptions]) -> None:
        super().__init__(**shared)
        require_at_least(0, gamma=gamma)
        self.gamma = gamma
        if alpha is not None:
            if not 0 <= alpha <= 1:
                raise ValueError(
                    f"alpha={alpha} must be in [0, 1]: the weight of positives; negatives have 1 - alpha"
                )
            self.positive_weight, self.negative_weight = torch.tensor(float(alpha)), torch.tensor(1.0 - alpha)

    def positive_term(self, logits: Tensor) -> Tensor:
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        return torch.exp(self.gamma * F.logsigmoid(-logits)) * F.softplus(-logits)

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        return torch.exp(self.gamma * F.logsigmoid(logits)) * F.softplus(logits)
