"""What `cxrlt train` holds in memory when it has ten times the images."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fold import N_TRAIN, generated_labels, write_noise
from benchmarks.layout import draw_images, write_images, write_table
from benchmarks.rows import Mark, Row
from benchmarks.setting import Setting
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.system.atomic_files import write_text

CHALLENGE = "cxrlt2023"
TIMES = 10
LEAST_IMAGES = 2000
TARGET = 1.05
INTERVAL = 0.02
"""Seconds between two measurements of the memory."""
PROC = Path("/proc")
SIZE = 32
RECIPE = """
base: demo_resnet
model: {backbone: test_convnext}
data: {size: 32}
optim: {batch_size: 1024, max_batch_per_device: 1024}
schedule: {epochs: 1}
"""
"""A small network, so that all images pass in minutes, in batches that take as much memory as the demo's."""


def memory_rows(setting: Setting) -> Iterator[Row]:
    """The largest anonymous memory of a whole training, on so many images and on TIMES as many."""
    if not (PROC / "self" / "smaps_rollup").is_file():
        print("bench: the anonymous memory of a process is known on Linux alone", file=sys.stderr)
        return
    n_images = setting.size(N_TRAIN, LEAST_IMAGES)
    few, many = (_peak_of_training(setting.folder / str(n), n) for n in (round(n_images / TIMES), n_images))
    yield Row(
        f"memory of train, {n_images:,} images",
        many,
        "bytes",
        Mark(f"the same on a {TIMES}th of the images", few),
        TARGET,
        lower_is_better=True,
        note="Pss_Anon of the process and its loader processes, from table to out-of-fold predictions",
    )


def write_challenge(root: Path, n_images: int) -> Workspace:
    """Table, folds and cache of `n_images` images named as in MIMIC-CXR, whose files hold next to nothing."""
    workspace, images = Workspace(root), draw_images(n_images)
    ids = images["dicom_id"].tolist()
    labels = generated_labels(ids).reset_index(drop=True).astype(np.int8)
    write_table(pd.concat([images, labels], axis=1), workspace.inputs_dir(CHALLENGE) / "train.csv")
    images_dir = workspace.images_dir(CHALLENGE)
    write_images(images_dir, images["fpath"], n_bytes=1)
    files = f"{images_dir.absolute()}/" + images.set_index("dicom_id")["fpath"]
    write_noise(files, SIZE, workspace.cache_dir(), CHALLENGE, images_dir)
    make_folds(get_challenge(CHALLENGE), workspace)
    return workspace


def _peak_of_training(root: Path, n_images: int) -> int:
    workspace = write_challenge(root, n_images)
    recipe = root / "recipe.yaml"
    write_text(recipe, RECIPE)
    words = ["train", str(recipe), "--challenge", CHALLENGE, "--root", str(workspace.root), "--fold", "0"]
    return peak_of_command(words)


def peak_of_command(arguments: Sequence[str]) -> int:
    """Most bytes of anonymous memory that `cxrlt` with these arguments and its children hold at once.

    Raises UserError with the end of what it printed if it fails.
    """
    command = [sys.executable, "-m", "cxrlt", *arguments]
    peak = 0
    with tempfile.TemporaryFile("w+") as printed:  # a pipe that nobody empties would stop it
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous_bytes, _with_children(process.pid))))
            time.sleep(INTERVAL)
        if process.returncode:
            printed.seek(0)
            raise UserError(f"cxrlt {' '.join(arguments)} failed: {printed.read()[-1000:]}")
    return peak


def anonymous_bytes(pid: int) -> int:
    """Pss_Anon: memory that is no file's; what a child shares with its parent counts once.

    0 for a process that is gone.
    """
    try:
        sizes = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return next(
        (1024 * int(line.split()[1]) for line in sizes.splitlines() if line.startswith("Pss_Anon:")), 0
    )


def _with_children(pid: int) -> list[int]:
    try:
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        children = []
    return [pid, *map(int, children)]
