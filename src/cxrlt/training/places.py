"""Where the files of a run lie and what makes them, for stages that read them without waiting for torch."""

from functools import cache
from pathlib import Path

from cxrlt.artifacts import name_of_run, sha256_of
from cxrlt.errors import UserError
from cxrlt.recipe import recipe_names

WEIGHTS = "weights.safetensors"
REFIT = "refit"
INNER = "inner.csv"


def train_command(run_dir: Path, fold: int | str, challenge: str) -> str:
    """The command that trains one fold of a run."""
    which = "--refit" if fold == REFIT else f"--fold {fold}"
    return f"{train_run_command(run_dir, challenge)} {which}"


def train_run_command(run_dir: Path, challenge: str) -> str:
    """The command that trains a run; its recipe is known only where the run is called after it."""
    name = name_of_run(run_dir, challenge)
    run = name if name in recipe_names() else f"RECIPE --name {name}"
    return f"cxrlt train {run} --challenge {challenge}"


def weights_sha256(directory: Path) -> str:
    """SHA-256 of the weights of a trained fold, read once per process as long as the file stays the same.

    Raises UserError if there are none.
    """
    path = directory / WEIGHTS
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: train that fold first.") from error
    return _sha256(path, found.st_size, found.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)
