"""Many (recipe, fold) jobs on many GPUs: one process per visible GPU."""

import os
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence

import torch
from joblib import Parallel, delayed

from cxrlt.errors import UserError, listing
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import Recipe


def train_grid(source: ImageSource, recipes: Sequence[str], n_folds: int, seed: int) -> None:
    """Train every fold of every recipe, each as a `cxrlt train` process of its own on a GPU of its own.

    A job that fails does not stop the others. Raises UserError naming the failed ones.
    """
    gpus: queue.Queue[str] = queue.Queue()
    for gpu in visible_gpus():
        gpus.put(gpu)
    jobs = [(recipe, fold) for fold in range(n_folds) for recipe in recipes]
    codes = Parallel(n_jobs=gpus.qsize(), backend="threading")(
        delayed(_train_one)(source, recipe, fold, seed, gpus) for recipe, fold in jobs
    )
    failed = [f"{recipe} fold {fold}" for (recipe, fold), code in zip(jobs, codes, strict=True) if code]
    if failed:
        raise UserError(f"Training failed for {listing(failed)} (reasons above). The same command goes on.")


def waves(challenge: str, recipes: Mapping[str, Recipe]) -> list[list[str]]:
    """Names of runs in the order of their training: what another starts from comes in an earlier wave.

    Raises UserError for runs that start from each other.
    """
    source_of = {
        name: (recipe.model.start_from or "").removeprefix(f"{challenge}:")
        for name, recipe in recipes.items()
    }
    ordered: list[list[str]] = []
    while source_of:
        wave = [name for name, origin in source_of.items() if origin not in source_of]
        if not wave:
            raise UserError(f"model.start_from: {listing(list(source_of))} start from each other.")
        ordered.append(wave)
        source_of = {name: origin for name, origin in source_of.items() if name not in wave}
    return ordered


def _train_one(source: ImageSource, recipe: str, fold: int, seed: int, gpus: "queue.Queue[str]") -> int:
    gpu = gpus.get()
    try:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        command = train_command(source, recipe, fold, seed)
        done = subprocess.run(command, env=environment, check=False)  # nosec B603  # ourselves
        return done.returncode
    finally:
        gpus.put(gpu)


def train_command(source: ImageSource, recipe: str, fold: int, seed: int) -> list[str]:
    """The `cxrlt train` command of one job."""
    workspace, name = source.workspace, source.challenge.name
    command = [sys.executable, "-m", "cxrlt", "train", recipe, "--challenge", name, "--fold", str(fold)]
    command += ["--seed", str(seed), "--root", str(workspace.root)]
    command += ["--inputs", str(workspace.inputs_dir(name)), "--images", str(workspace.images_dir(name))]
    command += ["--cache-dir", str(workspace.cache_dir())]
    return command + ["--quarantine"] * source.quarantine + ["--allow-missing"] * source.allow_missing


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, or 0, 1, …"""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
