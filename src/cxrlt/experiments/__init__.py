"""Experiments that compare variants of recipes. This file holds the flags, so `--help` needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXPERIMENT_FLAGS = {
    "losses": ("losses",),
    "ablation": ("losses",),
    "rates": ("losses", "transfer"),
    "tricks": ("tricks",),
}
"""Flag -> the kinds of experiments that accept it; all kinds accept the other flags."""
Ablation = Literal["class_aware", "ral", "ral_sensitivity"]
PaperName = Literal["lmf", "ral", "class-aware"]
Protocol = Literal["fair", "paper"]


@dataclass(frozen=True)
class ExperimentPlan:
    """The flags of `cxrlt compare`."""

    recipe: str | None = None
    """Base recipe: a name or a YAML file (default: the first recipe of the challenge)."""
    losses: tuple[str, ...] | None = None
    """Losses only: names of the losses; the first is the reference (default: the losses of the papers)."""
    ablation: Ablation | None = None
    """Losses only, instead of --losses: one loss without each of its parts, or with other settings."""
    tricks: tuple[str, ...] | None = None
    """Tricks only: names of the tricks (default: all that fit the challenge and the recipe)."""
    seeds: int = 2
    """Number of seeds: trainings of each variant on each fold."""
    folds: tuple[int, ...] | None = None
    """Folds to use (default: all)."""
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    """Losses and transfer: factors on the recipe's learning rate; the best is chosen for each row."""
    truth: tuple[Path, ...] = ()
    """Additional CSV files with ground-truth labels of the training images to score against."""
    workers: int | None = None
    """Number of parallel trainings (default: one per visible GPU, without a GPU one per core)."""
    name: str | None = None
    """Name of the experiment (default: compare- and the list of variants, or the ablation)."""
    force: bool = False
    """Redo finished work."""
    list_jobs: bool = False
    """Print the commands of every wave and run none of them."""


@dataclass(frozen=True)
class ReproducePlan:
    """The flags of `cxrlt reproduce`."""

    data: tuple[str, ...] | None = None
    """Challenges to use (default: all of the paper; those without files are skipped)."""
    recipes: tuple[str, ...] | None = None
    """Names or YAML files of recipes (default: those of the paper)."""
    losses: tuple[str, ...] | None = None
    """Losses of the paper's table, or any others; the first is the reference (default: all of the table)."""
    protocol: Protocol = "fair"
    """fair: folds by patient, a tuned learning rate per loss, last epoch. paper: by image, as published."""
    seeds: int | None = None
    """Number of seeds: trainings of each loss on each fold (default: 2)."""
    folds: tuple[int, ...] | None = None
    """Folds to use (default: all)."""
    rates: tuple[float, ...] | None = None
    """Factors on the recipe's learning rate, with the protocol fair (default: a third, one and three)."""
    workers: int | None = None
    """Number of parallel trainings (default: one per visible GPU, without a GPU one per core)."""
    quick: bool = False
    """Test the grid: one epoch; without other flags smallest recipe, one seed, fold 0, one rate."""
    force: bool = False
    """Redo finished work."""
    list_jobs: bool = False
    """Print the commands of every wave and run none of them."""
