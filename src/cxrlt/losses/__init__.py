"""Losses for long-tailed classification; usable without the rest of the package."""

from cxrlt.losses.asymmetric import AsymmetricLoss, RobustAsymmetricLoss
from cxrlt.losses.base import Loss, Reduction, Task
from cxrlt.losses.binary import BinaryCrossEntropy
from cxrlt.losses.minimiser import population_minimiser
from cxrlt.losses.multilabel import MultiLabelLoss
from cxrlt.losses.registry import LOSSES, create_loss, loss_names, loss_options
from cxrlt.losses.singlelabel import SingleLabelLoss
from cxrlt.losses.softmax import CrossEntropy

__all__ = [
    "LOSSES",
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "MultiLabelLoss",
    "Reduction",
    "RobustAsymmetricLoss",
    "SingleLabelLoss",
    "Task",
    "create_loss",
    "loss_names",
    "loss_options",
    "population_minimiser",
]
