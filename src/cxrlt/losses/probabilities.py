"""p and 1 - p of a sigmoid or softmax, with their logarithms, all numerically stable."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Probabilities(NamedTuple):
    """p and 1 - p of every entry and their logarithms, (n, c) each, without cancellation near 0 and 1."""

    p: Tensor
    one_minus_p: Tensor
    log_p: Tensor
    log_one_minus_p: Tensor


def sigmoid_probabilities(logits: Tensor) -> Probabilities:
    """Return the probabilities (n, c) of independent classes from logits (n, c)."""
    log_p, log_one_minus_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    return Probabilities(torch.sigmoid(logits), torch.sigmoid(-logits), log_p, log_one_minus_p)


def softmax_probabilities(logits: Tensor) -> Probabilities:
    """Return the probabilities (n, c) of exclusive classes from logits (n, c).

    1 - p of the most likely class is the sum of the others, because it can be close to 0.
    """
    log_p = F.log_softmax(logits, dim=1)
    top = torch.arange(logits.shape[1], device=logits.device) == log_p.argmax(dim=1, keepdim=True)
    log_others = torch.where(top, -torch.inf, log_p).logsumexp(dim=1, keepdim=True)
    below_half = torch.where(top, 0.0, log_p.exp())
    log_one_minus_p = torch.where(top, log_others, torch.log1p(-below_half))
    return Probabilities(log_p.exp(), log_one_minus_p.exp(), log_p, log_one_minus_p)
