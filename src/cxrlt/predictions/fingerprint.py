"""Hashes of what a choice was made on, by which it is known to be outdated."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, name_of_run, sha256_of
from cxrlt.challenges.base import Challenge
from cxrlt.folds.read import Folds, read_folds
from cxrlt.predictions.identity import OutdatedError
from cxrlt.predictions.standardise import CONSTANTS
from cxrlt.predictions.trained import fold_dirs, recipe_of
from cxrlt.predictions.weights import WEIGHTS_FILE, EnsembleWeights, is_ensemble, read_weights
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


def current_weights(run_dir: Path, challenge: Challenge, folds: Folds) -> EnsembleWeights:
    """What an ensemble is. Raises OutdatedError if it was fitted on another split, UserError if damaged."""
    weights = read_weights(run_dir, challenge)
    fitted = {len(weights.by_fold), len(weights.study_mean.by_fold)}
    if weights.folds_sha256 != folds.sha256 or fitted != {folds.n_folds}:
        name = name_of_run(run_dir, challenge.name)
        raise OutdatedError(
            f"The ensemble {name} is outdated: it was made on another split than the folds.csv there is now. "
            f"Make it again with: {weights.command(name, challenge.name)} --force"
        )
    return weights


def require_same_evidence(
    workspace: Workspace, name: str, weights: EnsembleWeights, challenge: Challenge
) -> None:
    """Raises OutdatedError if members were trained or predicted anew since the ensemble was fitted."""
    folders = [workspace.run_dir(challenge.name, member) for member in weights.members]
    if predictions_fingerprint(folders, "oof") != weights.members_sha256:
        raise OutdatedError(
            f"The ensemble {name} is outdated: it was fitted on other out-of-fold predictions of its members "
            f"than there are now. Renew it with: {weights.command(name, challenge.name)} --force"
        )
