"""Hashes of what a choice was made on, by which it is known to be made anew."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import sha256_of
from cxrlt.predictions.standardise import CONSTANTS
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
