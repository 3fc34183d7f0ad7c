"""Paths of a run's files and the commands that create them; importing this module does not import torch."""

from pathlib import Path

from cxrlt.artifacts import run_name_from_dir
from cxrlt.folds.read import REFIT
from cxrlt.recipe import recipe_names

WEIGHTS = "weights.safetensors"
HOLDOUT = "holdout.csv"
RUN = "run.json"
CONFIG = "config.yaml"
CARD = "card.json"
LOG = "log.csv"


def fold_dir(run_dir: Path, fold: int | str) -> Path:
    """Return the folder of one fold of a run, or of its refit."""
    return run_dir / (REFIT if fold == REFIT else f"fold{fold}")


def fold_from_dir(directory: Path) -> str:
    """Return the fold of a folder, or REFIT: the inverse of `fold_dir`."""
    return directory.name.removeprefix("fold")


def train_fold_command(run_dir: Path, fold: int | str, challenge: str) -> str:
    """Return the command that trains one fold of a run."""
    flag = "--refit" if fold == REFIT else f"--fold {fold}"
    return f"{train_run_command(run_dir, challenge)} {flag}"


def train_run_command(run_dir: Path, challenge: str) -> str:
    """Return the command that trains a run; its recipe is known only if the run has the recipe's name."""
    name = run_name_from_dir(run_dir, challenge)
    run = name if name in recipe_names() else f"RECIPE --name {name}"
    return f"cxrlt train {run} --challenge {challenge}"
