"""What can be compared: every module here has an EXPERIMENT, which `cxrlt compare` knows by its file's name.

Names are found without importing torch.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrlt.experiments.experiment import Experiment


def experiment_names() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def experiment_named(name: str) -> "type[Experiment]":
    return import_module(f"{__name__}.{name}").EXPERIMENT
