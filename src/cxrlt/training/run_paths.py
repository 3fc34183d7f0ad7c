"""Where the files of a run lie and what makes them, for stages that read them without waiting for torch."""

from pathlib import Path

from cxrlt.artifacts import name_of_run
from cxrlt.folds.read import REFIT
from cxrlt.recipe import recipe_names

WEIGHTS = "weights.safetensors"
SOUP_HOLDOUT = "soup_holdout.csv"
RUN = "run.json"
CONFIG = "config.yaml"


def unit_dir(run_dir: Path, fold: int | str) -> Path:
    """The folder of one fold of a run, or of its refit."""
    return run_dir / (REFIT if fold == REFIT else f"fold{fold}")


def fold_of(directory: Path) -> str:
    """Which fold a folder is of, or REFIT: what `unit_dir` made it from."""
    return directory.name.removeprefix("fold")


def train_fold_command(run_dir: Path, fold: int | str, challenge: str) -> str:
    """The command that trains one fold of a run."""
    which = "--refit" if fold == REFIT else f"--fold {fold}"
    return f"{train_run_command(run_dir, challenge)} {which}"


def train_run_command(run_dir: Path, challenge: str) -> str:
    """The command that trains a run; its recipe is known only where the run is called after it."""
    name = name_of_run(run_dir, challenge)
    run = name if name in recipe_names() else f"RECIPE --name {name}"
    return f"cxrlt train {run} --challenge {challenge}"
