"""The stage `cxrlt ensemble`: average models as out-of-fold evidence says, and write down how."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import cxrlt
from cxrlt.artifacts import Workspace, sha256_of
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.predictions.oof import oof_score, predicted_rows, study_mean_helps
from cxrlt.predictions.runs import TrainRows, read_final, read_oof, read_train_rows
from cxrlt.predictions.selection import greedy_weights
from cxrlt.predictions.standardise import mean_constants
from cxrlt.predictions.store import META_PREFIX, write_predictions
from cxrlt.predictions.study import study_mean
from cxrlt.predictions.weights import WEIGHTS_FILE, EnsembleWeights, is_ensemble, read_weights

FINGERPRINT = "made_of"


@dataclass(frozen=True)
class EnsembleReport:
    """What `cxrlt ensemble` did: the weights, and the predictions written from them."""

    weights: EnsembleWeights
    paths: tuple[Path, ...]
    skipped: bool
    text: str

    def __str__(self) -> str:
        return self.text


def make_ensemble(
    challenge: Challenge, workspace: Workspace, name: str, members: Sequence[str], *, force: bool = False
) -> EnsembleReport:
    """Choose weights for `members` and write weights.json, oof.parquet, and dev and test where all have them.

    Two candidates, the plain mean and greedy selection, are compared by a nested estimate: a row is scored
    with weights fitted without its fold, hence without its patient. Raises UserError for an unknown,
    repeated, refitted or incomplete member, and if `name` is taken by something else than this ensemble.
    """
    run_dir = workspace.run_dir(challenge.name, name)
    _require_members(challenge, workspace, name, members)
    if is_ensemble(run_dir) and not force:
        weights = read_weights(run_dir, challenge)
        if set(weights.members) != set(members):
            raise UserError(
                f"{run_dir} already is the ensemble of {', '.join(weights.members)}. "
                "Give this one a name of its own, or --force to replace it."
            )
        if weights.fingerprint == _fingerprint(challenge, workspace, members, "oof"):
            paths = _predict_available(challenge, workspace, name)
            return EnsembleReport(weights, paths, True, f"ensemble {name}: already done ({run_dir})")
    weights = _choose(challenge, workspace, members)
    weights.write(run_dir, challenge.name)
    paths = _predict_available(challenge, workspace, name)
    return EnsembleReport(weights, paths, False, _describe(challenge, name, weights, paths))


def predict_ensemble(challenge: Challenge, workspace: Workspace, name: str, split: str) -> Path:
    """Write `split`.parquet of an ensemble ("oof", "dev" or "test"): the logits that weights.json stands for.

    A file made of the same weights and the same predictions of the members is left alone.
    """
    run_dir = workspace.run_dir(challenge.name, name)
    weights, path = read_weights(run_dir, challenge), run_dir / f"{split}.parquet"
    made_of = sha256_of(run_dir / WEIGHTS_FILE) + _fingerprint(
        challenge, workspace, list(weights.used), split
    )
    made_of = hashlib.sha256(made_of.encode()).hexdigest()
    if path.is_file() and _made_of(path) == made_of:
        return path
    logits = read_final(challenge, workspace, name, split).logits
    meta = {
        "challenge": challenge.name,
        "name": name,
        "fold": "all",
        "seed": "",
        "split": split,
        "tta": "members'",
    }
    meta |= {"study_mean": str(weights.study_mean), "folds_sha256": weights.folds_sha256}
    write_predictions(path, logits, meta | {"version": cxrlt.__version__, FINGERPRINT: made_of})
    return path


def _choose(challenge: Challenge, workspace: Workspace, names: Sequence[str]) -> EnsembleWeights:
    rows = read_train_rows(challenge, workspace)
    members = {name: read_oof(challenge, workspace, name) for name in names}
    frames = {name: scores.frame for name, scores in members.items()}
    average = study_mean_helps(challenge, _mean(frames, _equal(names)), rows.table, rows.fold)
    if average:
        frames = {name: study_mean(frame, rows.table) for name, frame in frames.items()}
    mean = _mean(frames, _equal(names))
    nested = {"mean": oof_score(challenge, mean, rows.table, rows.fold)}
    kind, weights = "mean", _equal(names)
    if len(names) > 1:
        nested["greedy"] = _nested_greedy(challenge, frames, rows)
        if nested["greedy"] > nested["mean"]:
            kind, weights = "greedy", _fit(challenge, frames, rows, pd.Series(True, rows.table.index))
    constants = mean_constants([members[name].constants for name in names], [weights[name] for name in names])
    return EnsembleWeights(
        kind,
        weights,
        average,
        constants,
        nested,
        rows.folds.sha256,
        _fingerprint(challenge, workspace, names, "oof"),
    )


def _nested_greedy(challenge: Challenge, frames: Mapping[str, pd.DataFrame], rows: TrainRows) -> float:
    """Out-of-fold score of greedy selection when every fold is scored with weights fitted on the others."""
    parts = []
    for fold in range(rows.folds.n_folds):
        inside = rows.fold == fold
        weights = _fit(challenge, frames, rows, ~inside)
        parts.append(_mean({name: frame[inside] for name, frame in frames.items()}, weights))
    return oof_score(challenge, pd.concat(parts).loc[rows.table.index], rows.table, rows.fold)


def _fit(
    challenge: Challenge, frames: Mapping[str, pd.DataFrame], rows: TrainRows, chosen: pd.Series
) -> dict[str, float]:
    """Greedy weights on the `chosen` rows that every member predicts."""
    ids = predicted_rows(_mean(frames, _equal(list(frames)))[chosen])
    scores = [np.ascontiguousarray(frame.loc[ids].to_numpy(np.float32).T) for frame in frames.values()]
    labels = rows.table.loc[ids, list(challenge.classes)].to_numpy(np.float64)
    weights = greedy_weights(scores, labels, challenge.metric, challenge.task)
    return {name: float(weight) for name, weight in zip(frames, weights, strict=True)}


def _equal(names: Sequence[str]) -> dict[str, float]:
    return {name: 1 / len(names) for name in names}


def _mean(frames: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> pd.DataFrame:
    """Weighted mean of members' scores; rows are those of folds.csv for every member."""
    return sum(weight * frames[name] for name, weight in weights.items())


def _require_members(challenge: Challenge, workspace: Workspace, name: str, members: Sequence[str]) -> None:
    twice = {member for member in members if list(members).count(member) > 1}
    if not members or twice:
        wrong = f"{listing(sorted(twice))} named more than once" if twice else "none named"
        raise UserError(f"--members: {wrong}. Name each model once.")
    inner = [member for member in members if is_ensemble(workspace.run_dir(challenge.name, member))]
    if inner:
        raise UserError(f"--members: {listing(inner)} is an ensemble itself. Name its members instead.")
    run_dir = workspace.run_dir(challenge.name, name)
    if run_dir.is_dir() and not is_ensemble(run_dir) and any(folder.is_dir() for folder in run_dir.iterdir()):
        raise UserError(f"{run_dir} already holds a trained model. Give the ensemble a name of its own.")


def _fingerprint(challenge: Challenge, workspace: Workspace, members: Sequence[str], split: str) -> str:
    """A hash of the members' predictions and constants, which decide everything an ensemble is."""
    digest = hashlib.sha256()
    for member in sorted(members):
        run_dir = workspace.run_dir(challenge.name, member)
        for path in sorted([*run_dir.glob(f"fold*/{split}.parquet"), *run_dir.glob("fold*/constants.json")]):
            digest.update(f"{member} {path.parent.name} {path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _made_of(path: Path) -> str | None:
    value = (pq.read_schema(path).metadata or {}).get((META_PREFIX + FINGERPRINT).encode())
    return value.decode() if value else None


def _predict_available(challenge: Challenge, workspace: Workspace, name: str) -> tuple[Path, ...]:
    """The out-of-fold predictions, and those of each split that every fold of every member has predicted."""
    members = read_weights(workspace.run_dir(challenge.name, name), challenge).used
    folders = [
        f for m in members for f in workspace.run_dir(challenge.name, m).glob("fold[0-9]*") if f.is_dir()
    ]
    splits = [s for s in ("dev", "test") if all((folder / f"{s}.parquet").is_file() for folder in folders)]
    return tuple(predict_ensemble(challenge, workspace, name, split) for split in ("oof", *splits))


def _describe(challenge: Challenge, name: str, weights: EnsembleWeights, paths: Sequence[Path]) -> str:
    shares = ", ".join(f"{member} {share:.3g}" for member, share in weights.members.items())
    nested = ", ".join(f"{kind} {value:.4f}" for kind, value in weights.nested.items())
    study = "averaged over studies" if weights.study_mean else "not averaged over studies"
    lines = [
        f"ensemble {name}: {weights.kind} of {shares}; {study}",
        f"  nested OOF {challenge.metric}  {nested}",
    ]
    return "\n".join([*lines, *(f"  {path}" for path in paths)])
