"""Measure what a recipe costs on this machine: a few real updates and predictions on noise images.

The model has random weights, and everything else is as in training: loader, augmentation, loss, optimiser,
EMA, mixed precision, micro-batches. Every recipe is measured in a process of its own, so that its peak memory
is not that of another one.
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from accelerate import Accelerator
from tqdm import tqdm

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.inputs.cache import ImageCache, array_specs, cache_path, open_cache, real_path
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.file_stats import HASH_BYTES, get_stats
from cxrlt.inputs.packed import create_packed
from cxrlt.recipe import Recipe, override_recipe
from cxrlt.system.resumable_array import writing_rows
from cxrlt.training.batches import batch_stream
from cxrlt.training.datasets import create_eval_dataset, micro_batch_size
from cxrlt.training.infer import infer
from cxrlt.training.job import FoldData, FoldJob, FoldRun
from cxrlt.training.loop import train_epoch
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer, resolve_n_workers
from cxrlt.training.tta import NO_TTA

MIN_ROWS = 64
"""Smallest number of images that are measured: our choice."""
N_EPOCHS = 3
"""Epochs over these images; the first warms up and does not count."""


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one recipe. Seconds are per image; `features_seconds` once per image, for frozen backbones.

    `predict_seconds` includes all TTA variants. `memory_bytes` is the peak on the GPU, or of the process.
    `n_parameters` counts the weights of the model.
    """

    train_seconds: float
    predict_seconds: float
    features_seconds: float
    memory_bytes: int
    n_parameters: int


def measure_cost(challenge: Challenge, recipe: Recipe, table: pd.DataFrame) -> TrainingCost:
    """Measure a recipe in a new process, with rows of `table` (as `Challenge.read`) and noise as images.

    Raises UserError if the recipe does not fit the challenge, or if memory is too small for it.
    """
    n_rows = max(MIN_ROWS, recipe.optim.batch_size)
    rows = table.iloc[np.arange(n_rows) % len(table)]
    ids = pd.Index([f"{number:06}" for number in range(n_rows)], name="image_id")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, challenge, recipe, rows.set_axis(ids)).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{recipe.model.backbone} at {recipe.data.size} px: the process that measured it was killed, "
                "perhaps because the memory of this machine is too small. Use a smaller model or image size."
            ) from error


def _measure(challenge: Challenge, recipe: Recipe, table: pd.DataFrame) -> TrainingCost:
    fields = {
        "model": {"pretrained": False, "init_from": None, "new_head": False},
        "schedule": {"epochs": N_EPOCHS, "stages": ()},
    }
    recipe = override_recipe(recipe, fields)
    accelerator = create_accelerator(recipe)
    with tempfile.TemporaryDirectory(prefix="cxrlt-plan-") as folder:
        job = make_noise_fold(Path(folder), challenge, recipe, table)
        start = time.perf_counter()
        trainer = create_trainer(job, accelerator)
        features_seconds = 0.0
        if recipe.model.frozen:
            features_seconds = (time.perf_counter() - start) / len(table)
        n_parameters = sum(tensor.numel() for tensor in trainer.weights().values())
        train_seconds, predict_seconds = _train(trainer), _predict(trainer) + features_seconds
    return TrainingCost(
        train_seconds, predict_seconds, features_seconds, _peak_memory(accelerator), n_parameters
    )


def _train(trainer: Trainer) -> float:
    """Return the seconds per image of the fastest epoch after the first."""
    speeds = []
    with closing(batch_stream(trainer)) as stream:
        for epoch in range(N_EPOCHS):
            speeds.append(train_epoch(trainer, epoch, stream, tqdm(disable=True))["images_per_s"])
    return 1 / max(speeds[1:])


def _predict(trainer: Trainer) -> float:
    """Return the seconds per image of a prediction with the recipe's TTA."""
    job, recipe = trainer.job, trainer.job.recipe
    dataset = create_eval_dataset(recipe, job.data.train, job.data.classes, trainer.source)
    seconds = []
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        infer(
            trainer.ema.module,
            dataset,
            list(job.data.train.index),
            job.data.classes,
            trainer.accelerator,
            task=job.challenge.task,
            batch_size=micro_batch_size(recipe, trainer.source),
            n_workers=resolve_n_workers(recipe.data.n_workers, trainer.accelerator),
            tta=NO_TTA if recipe.model.frozen else recipe.predict.tta,
        )
        seconds.append(time.perf_counter() - start)
    return min(seconds) / len(job.data.train)


def _peak_memory(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_reserved(accelerator.device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_noise_fold(folder: Path, challenge: Challenge, recipe: Recipe, table: pd.DataFrame) -> FoldJob:
    """Return a fold job below `folder` that trains on all rows of `table`, with noise as images."""
    files = pd.Series([*table.index], table.index)
    cache = write_noise_cache(
        files, recipe.data.cache_size, folder / "cache", challenge.name, folder, challenge.channels
    )
    run_dir, none = folder / "run", np.zeros(len(table), dtype=bool)
    run_dir.mkdir(parents=True)
    run = FoldRun("noise", "0", 0, recipe, run_dir, provenance={})
    return FoldJob(challenge, run, FoldData(tuple(challenge.classes), table, none, none, none, cache))


def write_noise_cache(
    files: pd.Series, size: int, cache_dir: Path, challenge: str, images_dir: Path, channels: int = 1
) -> ImageCache:
    """Write a complete cache of noise images for `files` (index image_id), which need not exist."""
    files = files.sort_index()
    ids = files.index
    directory = cache_path(files, size, cache_dir, challenge, "train", images_dir, channels)
    directory.mkdir(parents=True)
    meta = {"challenge": challenge, "split": "train", "size": size, "n_images": len(ids)}
    meta |= {"images": real_path(images_dir), "decoder": DECODERS[channels]}
    arrays = array_specs(len(ids), size, channels)
    create_packed(directory, ids, arrays, meta)
    rng = np.random.default_rng(0)
    shape = arrays["images.npy"][1][1:]
    with writing_rows(directory / "images.npy") as write:
        for row in range(len(ids)):
            write(row, rng.integers(0, 256, shape, np.uint8))
    np.save(directory / "hashes.npy", rng.integers(0, 256, (len(ids), HASH_BYTES), np.uint8))
    np.save(directory / "sources.npy", np.maximum(get_stats(files.tolist()), 1))  # 0: not yet
    return open_cache(directory)
