"""Losses for long-tailed classification, usable without the rest of the package.

All modules of this package are imported, so a class with `@loss(...)` needs no other registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from cxrlt.losses.asymmetric import (
    AsymmetricLoss,
    AsymmetricPolynomialLoss,
    RobustAsymmetricLoss,
    RobustAsymmetricSingleLabelLoss,
)
from cxrlt.losses.base import Loss, Reduction
from cxrlt.losses.binary import BinaryCrossEntropy, FocalLoss
from cxrlt.losses.class_aware import ClassAwareLoss
from cxrlt.losses.distribution_balanced import DistributionBalancedLoss
from cxrlt.losses.hill import HillLoss
from cxrlt.losses.margin import LDAMLoss, LMFLoss
from cxrlt.losses.minimiser import population_minimiser
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.registry import LOSSES, Registration, create_loss, loss, loss_names, loss_options
from cxrlt.losses.singlelabel import SingleLabelLoss
from cxrlt.losses.softmax import BalancedSoftmax, CrossEntropy, LogitAdjusted, SoftmaxFocalLoss

__all__ = [
    "LOSSES",
    "AsymmetricLoss",
    "AsymmetricPolynomialLoss",
    "BalancedSoftmax",
    "BinaryCrossEntropy",
    "ClassAwareLoss",
    "CrossEntropy",
    "DistributionBalancedLoss",
    "FocalLoss",
    "HillLoss",
    "LDAMLoss",
    "LMFLoss",
    "LogitAdjusted",
    "Loss",
    "MultiLabelLoss",
    "Reduction",
    "Registration",
    "RobustAsymmetricLoss",
    "RobustAsymmetricSingleLabelLoss",
    "SingleLabelLoss",
    "SoftmaxFocalLoss",
    "create_loss",
    "loss",
    "loss_names",
    "loss_options",
    "population_minimiser",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
