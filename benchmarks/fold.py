"""A fold to train on without radiographs: labels as frequent as in CXR-LT 2023, noise for images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.synthetic import long_tailed
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023
from cxrlt.inputs.cache import ImageCache, arrays_of, cache_path, open_cache, real_path
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.packed import create_packed
from cxrlt.inputs.sources import HASH_BYTES, stats_of
from cxrlt.recipe import Recipe
from cxrlt.system.resumable_array import writing_rows
from cxrlt.training.job import FoldData, FoldJob, FoldRun

CHALLENGE = get_challenge("cxrlt2023")
N_TRAIN = CHALLENGE.train_images
"""Images that COUNTS_2023 are of."""
CLASSES = tuple(COUNTS_2023)


def generated_labels(ids: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Labels 1 and 0 of CLASSES, index image_id."""
    targets, _ = long_tailed(len(ids), COUNTS_2023, N_TRAIN, seed)
    return pd.DataFrame(targets.astype(np.float32), pd.Index(ids, name="image_id"), list(CLASSES))


def write_noise(files: pd.Series, size: int, cache_dir: Path, challenge: str, images_dir: Path) -> ImageCache:
    """A finished cache of training images, as if made of `files` (index image_id), which may be absent."""
    files = files.sort_index()
    ids = files.index
    directory = cache_path(files, size, cache_dir, challenge, "train", images_dir)
    directory.mkdir(parents=True)
    meta = {"challenge": challenge, "split": "train", "size": size, "n_images": len(ids)}
    meta |= {"images": real_path(images_dir), "decoder": DECODERS[1]}
    create_packed(directory, ids, arrays_of(len(ids), size, 1), meta)
    rng = np.random.default_rng(0)
    with writing_rows(directory / "images.npy") as write:
        for row in range(len(ids)):
            write(row, np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size))
    np.save(directory / "hashes.npy", rng.integers(0, 256, (len(ids), HASH_BYTES), np.uint8))
    np.save(directory / "sources.npy", np.maximum(stats_of(files.tolist()), 1))  # 0: not yet
    return open_cache(directory)


def generated_fold(folder: Path, recipe: Recipe, n_images: int) -> FoldJob:
    """Training rows, none left out, in a run's folder below `folder`."""
    ids = [f"{number:06}" for number in range(n_images)]
    labels = generated_labels(ids)
    table = labels.assign(patient=labels.index, study=labels.index, view="frontal")
    run_dir = folder / "run"
    run_dir.mkdir(parents=True)
    cache_size, none = recipe.data.cache_size, np.zeros(n_images, dtype=bool)
    cache = write_noise(pd.Series(ids, labels.index), cache_size, folder / "cache", "bench", folder)
    run = FoldRun("bench", "0", 0, recipe, run_dir, made_of={})
    return FoldJob(CHALLENGE, run, FoldData(CLASSES, table, none, none, cache))
