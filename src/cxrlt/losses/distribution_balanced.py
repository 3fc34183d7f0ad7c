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
    """DB: binary cross-entropy with weights for co-occurring labels and weaker gradients of negatives.

    r_ik = (1/n_k) / SUM_j y_ij/n_j;  w_ik = alpha + sigmoid(beta (r_ik - mu));  x = logit + v_k,
    v_k = -init_bias/neg_scale log(T/n_k - 1);  q = sigmoid(neg_scale x):
    L+ = -w b (1-p)^gamma log p, p = sigmoid(x);  L- = -w b/neg_scale q^gamma log(1-q);  b = focal_balance.

    Wu et al., ECCV 2020; the defaults are its settings for COCO-LT (VOC-LT: mu .3, neg_scale 5), not the
    defaults of its code. A row without positives has w = 1 + alpha. Soft labels enter r as they are, so the
    loss is linear in a label only for fixed w. An unknown label counts as 0 in r. Counts are clamped to [1, T
    - 1].

    We do not use the loss of timm, which has the same float32 values: it computes in float32 also for float64
    input, and its gradient is NaN for a fractional focal exponent at large logits. The original code adds v
    to the model output in place and returns unreduced entries; the paper uses the mean. alpha .5, beta 0,
    neg_scale 1, init_bias 0, gamma 0, focal_balance 1 is binary cross-entropy.
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
            raise ValueError(f"neg_scale={neg_scale} must be > 0: it divides the loss of negatives")
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.neg_scale, self.gamma, self.focal_balance = neg_scale, gamma, focal_balance
        share = prevalence(shared.get("class_counts"), shared.get("n_samples"), clamped=True)
        self.register_buffer("inverse_counts", (share.min() / share).float(), persistent=False)
        self.register_buffer("shift", (init_bias / neg_scale * torch.logit(share)).float(), persistent=False)

    def positive_term(self, logits: Tensor) -> Tensor:
        """Return L+ (n, c); see `MultiLabelLoss.positive_term`."""
        return self.focal_balance * self._focal(-(logits + self.shift.to(logits)))

    def negative_term(self, logits: Tensor) -> Tensor:
        """Return L- (n, c); see `MultiLabelLoss.negative_term`."""
        scaled = self.neg_scale * (logits + self.shift.to(logits))
        return self.focal_balance / self.neg_scale * self._focal(scaled)

    def entry_weights(self, targets: Tensor) -> Tensor:
        """See `MultiLabelLoss.entry_weights`."""
        inverse = self.inverse_counts.to(targets)
        rate = (targets.nan_to_num(0.0) * inverse).sum(dim=1, keepdim=True)
        ratio = inverse / rate.clamp(min=torch.finfo(targets.dtype).tiny)
        return self.alpha + torch.sigmoid(self.beta * (ratio - self.mu))

    def _focal(self, wrong: Tensor) -> Tensor:
        """Return -(1 - q)^gamma log q (n, c), where `wrong` (n, c) is the logit of 1 - q."""
        return torch.exp(self.gamma * F.logsigmoid(wrong)) * F.softplus(wrong)
