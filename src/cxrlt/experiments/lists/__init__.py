"""Experiments of `cxrlt compare`: every module here defines EXPERIMENT and is selected by its file name.

Finding the names does not import torch.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrlt.experiments.experiment import Experiment


def experiment_names() -> tuple[str, ...]:
    """Return the names of all experiments."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def load_experiment_class(name: str) -> "type[Experiment]":
    """Import the module `name` and return its class."""
    return import_module(f"{__name__}.{name}").EXPERIMENT
