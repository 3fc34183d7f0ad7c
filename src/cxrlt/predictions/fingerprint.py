"""Hashes of what a choice was made on, by which it is known to be made anew."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, sha256_of
from cxrlt.challenges.base import Challenge
from cxrlt.folds.read import read_folds
from cxrlt.predictions.standardise import CONSTANTS
from cxrlt.predictions.trained import fold_dirs, recipe_of
from cxrlt.predictions.weights import WEIGHTS_FILE, is_ensemble, read_weights
from cxrlt.training.places import REFIT


def predictions_fingerprint(run_dirs: Sequence[Path], split: str) -> str:
    """A hash of runs' predictions of a split and of their constants, in any order of the runs."""
    digest = hashlib.sha256()
    for run_dir in sorted(run_dirs):
        found = [path for unit in ("fold*", REFIT) for path in run_dir.glob(f"{unit}/{split}.parquet")]
        for path in sorted([*found, *run_dir.glob(f"fold*/{CONSTANTS}")]):
            digest.update(f"{run_dir.name} {path.parent.name} {path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def evidence_fingerprint(run_dirs: Sequence[Path], table: pd.DataFrame, classes: Sequence[str]) -> str:
    """A hash of runs' out-of-fold predictions, and of the labels, studies, views and folds of these rows."""
    digest = hashlib.sha256(predictions_fingerprint(run_dirs, "oof").encode())
    digest.update(table[list(classes)].to_numpy(np.float32).tobytes())
    rows = table[["patient", "study", "view", "fold"]].astype(str)
    digest.update(pd.util.hash_pandas_object(rows).to_numpy().tobytes())
    return digest.hexdigest()


def final_fingerprint(challenge: Challenge, workspace: Workspace, name: str, split: str) -> str:
    """A hash of what a model's or an ensemble's predictions of a split are computed from.

    Raises UserError for folds, a weights.json or a recipe that are damaged.
    """
    folds = read_folds(challenge, workspace)
    run_dir = workspace.run_dir(challenge.name, name)
    if is_ensemble(run_dir):
        weights = read_weights(run_dir, challenge)
        members = weights.members if split == "oof" else weights.used
        folders = [workspace.run_dir(challenge.name, member) for member in members]
        parts = [sha256_of(run_dir / WEIGHTS_FILE), predictions_fingerprint(folders, split)]
    else:
        # out-of-fold rows decide on the mean over studies
        parts = [predictions_fingerprint([run_dir], each) for each in (split, "oof")]
        parts += [
            recipe_of(folder, challenge.name).predict.model_dump_json() for folder in fold_dirs(run_dir)
        ]
    return hashlib.sha256(" ".join([folds.sha256, *parts]).encode()).hexdigest()
