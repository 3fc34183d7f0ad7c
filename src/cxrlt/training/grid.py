"""Many (recipe, fold) jobs on many GPUs: one process per visible GPU."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import torch

from cxrlt.errors import UserError, listing
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import Recipe
from cxrlt.system.signals import Stopped

LOOK_SECONDS = 0.2


def train_grid(source: ImageSource, recipes: Sequence[str], n_folds: int, seed: int) -> None:
    """Train every fold of every recipe, each as a `cxrlt train` process of its own on a GPU of its own.

    A job that fails does not stop the others. Raises UserError naming the failed ones. A signal is passed on
    to those under way, which save what they have done.
    """
    left = [(recipe, fold) for fold in range(n_folds) for recipe in recipes]
    free, failed = visible_gpus(), []
    running: dict[str, tuple[str, subprocess.Popen]] = {}
    try:
        while left or running:
            while left and free:
                recipe, fold = left.pop(0)
                gpu = free.pop(0)
                running[gpu] = f"{recipe} fold {fold}", _start(job_command(source, recipe, fold, seed), gpu)
            time.sleep(LOOK_SECONDS)
            for gpu in [gpu for gpu, (_, process) in running.items() if process.poll() is not None]:
                label, process = running.pop(gpu)
                free.append(gpu)
                if process.returncode:
                    failed.append(label)
    except BaseException:
        _stop([process for _, process in running.values()])
        raise
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


def _start(command: list[str], gpu: str) -> subprocess.Popen:
    """In a group of its own, which Ctrl-C does not reach: it would be told twice."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    return subprocess.Popen(command, env=environment, process_group=0)  # nosec B603  # ourselves


def _stop(processes: list[subprocess.Popen]) -> None:
    """Wait until they have saved what they have done; a second signal does not wait."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except Stopped:
        for process in processes:
            process.kill()
        raise


def job_command(source: ImageSource, recipe: str, fold: int, seed: int) -> list[str]:
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
