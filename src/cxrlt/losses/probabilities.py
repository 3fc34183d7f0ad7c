"""Probabilities of a sigmoid or a softmax, and of being wrong, with their logarithms."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Probabilities(NamedTuple):
    """p and 1 - p of every entry, and their logarithms: (n, c) each, finite, none taken from 1 - p near 0."""

    p: Tensor
    miss: Tensor
    log_p: Tensor
    log_miss: Tensor


def sigmoid_probabilities(logits: Tensor) -> Probabilities:
    log_p, log_miss = F.logsigmoid(logits), F.logsigmoid(-logits)
    return Probabilities(torch.sigmoid(logits), torch.sigmoid(-logits), log_p, log_miss)


def softmax_probabilities(logits: Tensor) -> Probabilities:
    """As for the sigmoid. 1 - p of the likeliest class is summed from the others, for it may be near 0."""
    log_p = F.log_softmax(logits, dim=1)
    top = torch.arange(logits.shape[1], device=logits.device) == log_p.argmax(dim=1, keepdim=True)
    log_others = torch.where(top, -torch.inf, log_p).logsumexp(dim=1, keepdim=True)
    below_half = torch.where(top, 0.0, log_p.exp())
    log_miss = torch.where(top, log_others, torch.log1p(-below_half))
    return Probabilities(log_p.exp(), log_miss.exp(), log_p, log_miss)
