"""Memory of `cxrlt train` with N images, compared with a tenth of N."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.synthetic_challenge import make_image_table, write_images, write_table
from benchmarks.synthetic_fold import N_TRAIN, make_labels
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.system.atomic_files import write_text
from cxrlt.training.cost import write_noise_cache

CHALLENGE = "cxrlt2023"
SIZE_RATIO = 10
MIN_IMAGES = 2000
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
"""A small network, so that an epoch takes minutes; large batches need as much memory as the demo's."""


def measure_memory(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Measure the peak anonymous memory of a training, on n images and on n / SIZE_RATIO images."""
    if not (PROC / "self" / "smaps_rollup").is_file():
        print("bench: memory is measured on Linux only", file=sys.stderr)
        return
    n_images = config.size(N_TRAIN, MIN_IMAGES)
    few, many = (
        _training_peak_memory(config.folder / str(n), n) for n in (round(n_images / SIZE_RATIO), n_images)
    )
    yield Measurement(
        f"memory of train, {n_images:,} images",
        many,
        "bytes",
        ReferenceValue(f"the same on a {SIZE_RATIO}th of the images", few),
        TARGET,
        lower_is_better=True,
        note="Pss_Anon of the process and its loader workers, from reading the table to predicting",
    )


def write_challenge(root: Path, n_images: int) -> Workspace:
    """Write table, folds, cache and 1-byte image files of `n_images` images with paths as in MIMIC-CXR."""
    workspace, images = Workspace(root), make_image_table(n_images)
    ids = images["dicom_id"].tolist()
    labels = make_labels(ids).reset_index(drop=True).astype(np.int8)
    write_table(pd.concat([images, labels], axis=1), workspace.inputs_dir(CHALLENGE) / "train.csv")
    images_dir = workspace.images_dir(CHALLENGE)
    write_images(images_dir, images["fpath"], n_bytes=1)
    files = f"{images_dir.absolute()}/" + images.set_index("dicom_id")["fpath"]
    write_noise_cache(files, SIZE, workspace.cache_dir(), CHALLENGE, images_dir)
    make_folds(get_challenge(CHALLENGE), workspace)
    return workspace


def _training_peak_memory(root: Path, n_images: int) -> int:
    workspace = write_challenge(root, n_images)
    recipe = root / "recipe.yaml"
    write_text(recipe, RECIPE)
    arguments = ["train", str(recipe), "--challenge", CHALLENGE, "--root", str(workspace.root), "--fold", "0"]
    return peak_memory_of_command(arguments)


def peak_memory_of_command(arguments: Sequence[str]) -> int:
    """Return the peak anonymous memory in bytes of `cxrlt` with these arguments and its child processes.

    Raises UserError with the end of its output if it fails.
    """
    command = [sys.executable, "-m", "cxrlt", *arguments]
    peak = 0
    with tempfile.TemporaryFile("w+") as printed:  # a full pipe would block it
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous_bytes, _process_tree(process.pid))))
            time.sleep(INTERVAL)
        if process.returncode:
            printed.seek(0)
            raise UserError(f"cxrlt {' '.join(arguments)} failed: {printed.read()[-1000:]}")
    return peak


def anonymous_bytes(pid: int) -> int:
    """Return Pss_Anon: memory without files; memory that processes share is counted once.

    Returns 0 if the process has ended.
    """
    try:
        sizes = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return next(
        (1024 * int(line.split()[1]) for line in sizes.splitlines() if line.startswith("Pss_Anon:")), 0
    )


def _process_tree(pid: int) -> list[int]:
    try:
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        children = []
    return [pid, *map(int, children)]
