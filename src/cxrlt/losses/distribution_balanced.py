"""The distribution-balanced loss."""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, require_at_least
from cxrlt.losses.class_weights import prevalence
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.registry import loss

NEUTRAL = {"alpha": 0.5, "beta": 0, "neg_scale": 1, "init_bias": 0, "gamma": 0, "focal_balance": 1}


@loss("db", neutral=NEUTRAL, variants=({"gamma": 0.5, "mu": 0.3, "neg_scale": 5},), linear=False)
class DistributionBalancedLoss(MultiLabelLoss):
    """DB: binary cross-entropy with weights for co-occurring labels and a gentler pull on negatives.

    r_ik = (1/n_k) / SUM_j y_ij/n_j;  w_ik = alpha + sigmoid(beta (r_ik - mu));  x = logit + v_k,
    v_k = -init_bias/neg_scale log(T/n_k - 1);  q = sigmoid(neg_scale x):
    L+ = -w b (1-p)^gamma log p, p = sigmoid(x);  L- = -w b/neg_scale q^gamma log(1-q);  b = focal_balance.

    Wu et al., ECCV 2020; the defaults are its settings for COCO-LT (VOC-LT: mu .3, neg_scale 5), not those of
    its code's constructor. A row without positives has w = 1 + alpha. In a soft row the labels enter r as
    they are: the row's share of a class is y_ij/n_j, which meets both ends; the loss is linear in a label
    only while w is held. An unknown label counts as none in r. Counts are clamped to [1, T - 1].

    timm's has the same values in float32, but computes in float32 even what comes in float64, and its
    gradient is NaN for a fractional focal exponent at large logits; therefore this one. The original adds v
    to the model's output in place and returns the entries unreduced; its paper's scale is the mean.
    alpha .5, beta 0, neg_scale 1, init_bias 0, gamma 0, focal_balance 1 is binary cross-entropy.
    """

    inverse_counts: Tensor
    shift: Tensor

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 10,
        mu: float = 0.2,
        neg_scale: float = 2,
        init_bias: float = 0.05,
        gamma: float = 2,
        focal_balance: float = 2,
        **shared: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**shared)
        require_at_least(
            0, alpha=alpha, beta=beta, init_bias=init_bias, gamma=gamma, focal_balance=focal_balance
        )
        if not neg_scale > 0:
            raise ValueError(f"neg_scale={neg_scale} must be > 0: it divides the loss of the negatives")
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.neg_scale, self.gamma, self.focal_balance = neg_scale, gamma, focal_balance
        share = prevalence(shared.get("class_counts"), shared.get("n_samples"), clamped=True)
        self.register_buffer("inverse_counts", (share.min() / share).float(), persistent=False)
        self.register_buffer("shift", (init_bias / neg_scale * torch.logit(share)).float(), persistent=False)

    def positive_term(self, logits: Tensor) -> Tensor:
        return self.focal_balance * self._focal(-(logits + self.shift.to(logits)))

    def negative_term(self, logits: Tensor) -> Tensor:
        scaled = self.neg_scale * (logits + self.shift.to(logits))
        return self.focal_balance / self.neg_scale * self._focal(scaled)

    def entry_weights(self, targets: Tensor) -> Tensor:
        inverse = self.inverse_counts.to(targets)
        rate = (targets.nan_to_num(0.0) * inverse).sum(dim=1, keepdim=True)
        ratio = inverse / rate.clamp(min=torch.finfo(targets.dtype).tiny)
        return self.alpha + torch.sigmoid(self.beta * (ratio - self.mu))

    def _focal(self, wrong: Tensor) -> Tensor:
        """-(1 - q)^gamma log q, where `wrong` is the logit of 1 - q."""
        return torch.exp(self.gamma * F.logsigmoid(wrong)) * F.softplus(wrong)
