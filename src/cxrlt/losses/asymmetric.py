"""Asymmetric loss (Ridnik et al., ICCV 2021) and the robust asymmetric loss (Park et al., ICCVW CVAMD 2023).

Notation: p = sigmoid(logit), p_tau = max(p - clip, 0) is the shifted probability of the negatives.
"""

from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.losses.base import SharedOptions, power, require_at_least, require_one_of, require_shift
from cxrlt.losses.multilabel import ClassWeights, MultiLabelLoss

RalForm = Literal["paper", "released"]


class AsymmetricLoss(MultiLabelLoss):
    """L+ = -(1-p)^gamma_pos log p;  L- = -p_tau^gamma_neg log(1 - p_tau).  ASL, Eq. 7.

    `detach_focusing=True` stops the gradient through the focusing weights, (1-p)^gamma_pos and
    p_tau^gamma_neg. With gamma_neg = gamma_pos = clip = 0 it is binary cross-entropy.
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
        require_shift(clip=clip)
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip
        self.detach_focusing = detach_focusing

    def positive_term(self, logits: Tensor) -> Tensor:
        return self._positive_focus(logits) * F.softplus(-logits)

    def negative_term(self, logits: Tensor) -> Tensor:
        return self._negative_focus(logits) * self._negative_log(logits)

    def _shifted(self, logits: Tensor) -> Tensor:
        """p_tau."""
        return (torch.sigmoid(logits) - self.clip).clamp(min=0)

    def _negative_log(self, logits: Tensor) -> Tensor:
        """-log(1 - p_tau), through softplus where nothing is shifted: there 1 - p rounds to 0."""
        return F.softplus(logits) if self.clip == 0 else -torch.log1p(-self._shifted(logits))

    def _positive_focus(self, logits: Tensor) -> Tensor:
        weight = torch.exp(self.gamma_pos * F.logsigmoid(-logits))
        return weight.detach() if self.detach_focusing else weight

    def _negative_focus(self, logits: Tensor) -> Tensor:
        weight = power(self._shifted(logits), self.gamma_neg)
        return weight.detach() if self.detach_focusing else weight


class RobustAsymmetricLoss(AsymmetricLoss):
    """RAL: the first two Taylor coefficients of the positives are free, a Hill factor tames the negatives.

    L+ = (1-p)^gamma_pos [-log p - epsilon_pos (1-p) - epsilon_pos_pow/2 (1-p)^2] in both forms, that is
    Eq. 6 with alpha_1 = 1 - epsilon_pos, alpha_2 = (1 - epsilon_pos_pow)/2 and alpha_m = 1/m beyond.

    form="paper" (Eq. 6):   L- = (lambda - p) p_tau^gamma_neg [-log(1-p_tau) - epsilon_neg p_tau],
                            that is beta_1 = 1 - epsilon_neg and beta_n = 1/n beyond.
    form="released" (the published code's arithmetic):
                            L- = (lambda - p) p^2 (lambda - 1 + p_tau) p_tau^gamma_neg
                                 [-log(1-p_tau) - epsilon_neg (1-p_tau)].

    `hill_lambda=None` drops the Hill factors. `detach_focusing` concerns the focusing weights, not the Hill
    factors, as in the published code.
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
        super().__init__(gamma_neg, gamma_pos, clip, detach_focusing, class_weights, **shared)
        require_one_of("form", form, get_args(RalForm))
        if hill_lambda is not None and hill_lambda < 1:
            raise ValueError(
                "hill_lambda must be >= 1: below that the loss of confident negatives is negative"
            )
        self.form, self.hill_lambda = form, hill_lambda
        self.epsilon_pos, self.epsilon_pos_pow, self.epsilon_neg = epsilon_pos, epsilon_pos_pow, epsilon_neg

    def positive_term(self, logits: Tensor) -> Tensor:
        miss = torch.sigmoid(-logits)
        series = F.softplus(-logits) - self.epsilon_pos * miss - self.epsilon_pos_pow / 2 * miss**2
        return self._positive_focus(logits) * series

    def negative_term(self, logits: Tensor) -> Tensor:
        shifted = self._shifted(logits)
        perturbed = shifted if self.form == "paper" else 1 - shifted
        series = self._negative_log(logits) - self.epsilon_neg * perturbed
        return self._hill(logits, shifted) * self._negative_focus(logits) * series

    def _hill(self, logits: Tensor, shifted: Tensor) -> Tensor | float:
        if self.hill_lambda is None:
            return 1.0
        p = torch.sigmoid(logits)
        factor = self.hill_lambda - p
        return factor if self.form == "paper" else factor * p**2 * (self.hill_lambda - 1 + shifted)
