"""The state of one fold of a run, from its files: planned, running, stopped, failed or done.

Training writes planned.json in the folder of a run and failed.json in the folder of a fold. Everything else
is read from the files that training needs anyway. Reading changes nothing and does not import torch.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from cxrlt.artifacts import Artifact, read_artifact, read_json, write_artifact
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, load_recipe
from cxrlt.system.locks import is_locked
from cxrlt.training.run_paths import CARD, CONFIG, LOG, RUN, WEIGHTS, fold_dir, fold_from_dir

PLANNED, FAILED = "planned.json", "failed.json"
StateName = Literal["waiting", "running", "stopped", "failed", "done", "outdated"]


class Planned(Artifact):
    """planned.json: the folds that a command is going to train, and their seed."""

    folds: tuple[str, ...]
    seed: int


class Failure(Artifact):
    """failed.json: why the last training of a fold ended."""

    reason: str


@dataclass(frozen=True)
class FoldState:
    """The state of one fold. `epoch` counts finished epochs of all `epochs`, without those of stages.

    `seconds_left` is estimated from the speed of the last epoch; None if there is none yet. `scores` are
    those of the last epoch, by the column of log.csv. `detail` is the stage, the reason, or what is outdated.
    """

    run: str
    fold: str
    seed: int | None
    state: StateName
    epoch: int = 0
    epochs: int | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    scores: dict[str, float] | None = None
    detail: str = ""


def write_planned(run_dir: Path, folds: Sequence[int | str], seed: int) -> None:
    """Add the unfinished ones of `folds` to the planned folds of a run."""
    wanted = {str(fold) for fold in folds if not (fold_dir(run_dir, fold) / WEIGHTS).is_file()}
    known = {*read_planned(run_dir).folds}
    if not wanted <= known:
        write_artifact(run_dir / PLANNED, Planned(folds=tuple(sorted(wanted | known)), seed=seed))


def read_planned(run_dir: Path) -> Planned:
    """Return the planned folds of a run; none if the file is missing or damaged."""
    with suppress(UserError):
        return read_artifact(run_dir / PLANNED, Planned, "cxrlt train")
    return Planned(folds=(), seed=0)


@contextmanager
def record_failure(directory: Path) -> Iterator[None]:
    """Context manager of a training: keep the reason in failed.json if it ends with an error."""
    (directory / FAILED).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:  # not a signal, which is no Exception
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(OSError, UserError):  # a full disk: the error itself is more important
            write_artifact(directory / FAILED, Failure(reason=reason))
        raise


def read_fold_state(run: str, directory: Path) -> FoldState:
    """Return the state of the fold in `directory`, without checking whether its data have changed.

    Raises UserError for a damaged run.json, config.yaml or log.csv.
    """
    fold = fold_from_dir(directory)
    failed = directory / FAILED
    if not (directory / RUN).is_file():
        reason = _failure(failed)
        return FoldState(run, fold, None, "failed" if reason else "waiting", detail=reason)
    seed = int(read_json(directory / RUN, "cxrlt train")["seed"])
    recipe = load_recipe(None, directory / CONFIG)
    log = _read_log(directory / LOG)
    known = FoldState(run, fold, seed, "done", len(log), recipe.schedule.epochs)
    if len(log):
        scores = {name: log[name].iloc[-1] for name in log.columns if name.startswith("oof_")}
        known = replace(known, images_per_s=float(log["images_per_s"].iloc[-1]), scores=scores)
    if (directory / WEIGHTS).is_file():
        return known
    known = replace(known, detail=_stage(directory, recipe))
    if is_locked(directory):
        return replace(known, state="running", seconds_left=_seconds_left(directory, known))
    if reason := _failure(failed):
        return replace(known, state="failed", detail=reason)
    return replace(known, state="stopped")


def _failure(path: Path) -> str:
    with suppress(UserError):
        return read_artifact(path, Failure, "cxrlt train").reason
    return ""


def _read_log(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _stage(directory: Path, recipe: Recipe) -> str:
    """Return which stage before the main training is trained, or an empty text."""
    n_stages = len(recipe.schedule.stages)
    finished = sum((directory / f"stage{n}" / WEIGHTS).is_file() for n in range(1, n_stages + 1))
    return f"stage {finished + 1} of {n_stages} before the epochs" if finished < n_stages else ""


def _seconds_left(directory: Path, state: FoldState) -> float | None:
    """Estimate the remaining seconds from the speed of the last epoch and the time since it ended."""
    if not state.images_per_s or state.epochs is None:
        return None
    n_images = read_json(directory / CARD, "cxrlt train")["n_train_images"]
    seconds = (state.epochs - state.epoch) * n_images / state.images_per_s
    since = time.time() - (directory / LOG).stat().st_mtime
    return max(seconds - since, 0.0)
