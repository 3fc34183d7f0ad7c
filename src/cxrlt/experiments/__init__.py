"""Variants of one recipe compared. Here: the flags, which the command line shows without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FLAGS_OF = {"losses": ("losses", "ablation", "rates"), "tricks": ("tricks",)}
"""Flags that only one list of variants takes."""
Ablation = Literal["class_aware", "ral", "ral_sensitivity"]


@dataclass(frozen=True)
class ExperimentPlan:
    """None means the challenge's own, or all of them."""

    recipe: str | None = None
    """A recipe's name or YAML file (default: the challenge's first), which the experiment changes."""
    losses: tuple[str, ...] | None = None
    """Of losses: their names; the first is what the others are compared with (default: the papers')."""
    ablation: Ablation | None = None
    """Of losses, instead: one loss without each of its parts, or with other settings."""
    tricks: tuple[str, ...] | None = None
    """Of tricks: their names (default: all that fit the challenge and the recipe)."""
    seeds: int = 2
    """How many trainings of each loss, or with each trick, and fold."""
    folds: tuple[int, ...] | None = None
    """Which folds (default: every fold)."""
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    """Of losses: factors on the recipe's learning rate to choose from."""
    truth: tuple[Path, ...] = ()
    """Further CSV files of true labels of the training images to score against."""
    workers: int | None = None
    """Trainings side by side (default: one per visible GPU, else one per core)."""
    name: str | None = None
    """Name of the experiment (default: compare-losses or compare-tricks, or compare- and the ablation)."""
    force: bool = False
    """Do again what is finished."""
    list_jobs: bool = False
    """Print the commands that are to be run, wave by wave, and run none of them."""
