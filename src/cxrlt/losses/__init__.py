"""Losses for long-tailed multi-label classification; usable without the rest of the package."""

from cxrlt.losses.asymmetric import AsymmetricLoss, RobustAsymmetricLoss
from cxrlt.losses.base import MultiLabelLoss
from cxrlt.losses.create import LOSSES, create_loss, loss_options
from cxrlt.losses.cross_entropy import BinaryCrossEntropy
from cxrlt.losses.minimiser import population_minimiser

__all__ = [
    "LOSSES",
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "MultiLabelLoss",
    "RobustAsymmetricLoss",
    "create_loss",
    "loss_options",
    "population_minimiser",
]
