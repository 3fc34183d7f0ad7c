"""A synthetic fold to train on: labels with the frequencies of CXR-LT 2023, and noise images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.synthetic import make_long_tailed
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023
from cxrlt.inputs.cache import ImageCache, array_specs, cache_path, open_cache, real_path
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.file_stats import HASH_BYTES, get_stats
from cxrlt.inputs.packed import create_packed
from cxrlt.recipe import Recipe
from cxrlt.system.resumable_array import writing_rows
from cxrlt.training.job import FoldData, FoldJob, FoldRun

CHALLENGE = get_challenge("cxrlt2023")
N_TRAIN = CHALLENGE.train_images
"""Number of images in COUNTS_2023."""
CLASSES = tuple(COUNTS_2023)


def make_labels(ids: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Return labels 1 and 0 (index image_id, columns CLASSES)."""
    targets, _ = make_long_tailed(len(ids), COUNTS_2023, N_TRAIN, seed)
    return pd.DataFrame(targets.astype(np.float32), pd.Index(ids, name="image_id"), list(CLASSES))


def write_noise_cache(
    files: pd.Series, size: int, cache_dir: Path, challenge: str, images_dir: Path
) -> ImageCache:
    """Write a complete cache of noise images for `files` (index image_id), which need not exist."""
    files = files.sort_index()
    ids = files.index
    directory = cache_path(files, size, cache_dir, challenge, "train", images_dir)
    directory.mkdir(parents=True)
    meta = {"challenge": challenge, "split": "train", "size": size, "n_images": len(ids)}
    meta |= {"images": real_path(images_dir), "decoder": DECODERS[1]}
    create_packed(directory, ids, array_specs(len(ids), size, 1), meta)
    rng = np.random.default_rng(0)
    with writing_rows(directory / "images.npy") as write:
        for row in range(len(ids)):
            write(row, np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size))
    np.save(directory / "hashes.npy", rng.integers(0, 256, (len(ids), HASH_BYTES), np.uint8))
    np.save(directory / "sources.npy", np.maximum(get_stats(files.tolist()), 1))  # 0: not yet
    return open_cache(directory)


def make_synthetic_fold(folder: Path, recipe: Recipe, n_images: int) -> FoldJob:
    """Return a fold job with `n_images` training rows and no validation rows, below `folder`."""
    ids = [f"{number:06}" for number in range(n_images)]
    labels = make_labels(ids)
    table = labels.assign(patient=labels.index, study=labels.index, view="frontal")
    run_dir = folder / "run"
    run_dir.mkdir(parents=True)
    cache_size, none = recipe.data.cache_size, np.zeros(n_images, dtype=bool)
    cache = write_noise_cache(pd.Series(ids, labels.index), cache_size, folder / "cache", "bench", folder)
    run = FoldRun("bench", "0", 0, recipe, run_dir, provenance={})
    return FoldJob(CHALLENGE, run, FoldData(CLASSES, table, none, none, none, cache))
