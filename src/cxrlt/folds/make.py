"""The split of a challenge: made once, hashed, and read by every later stage."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace, atomic_path, read_json, sha256_of, write_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.balance import balance, describe
from cxrlt.folds.read import Folds, folds_command, read_folds, report_path
from cxrlt.folds.split import split_patients
from cxrlt.inputs.table import load_labels, load_table
from cxrlt.locks import exclusive, sweep


@dataclass(frozen=True)
class FoldReport:
    """What `cxrlt folds` did; `figures` is what folds.json holds."""

    path: Path
    figures: dict
    skipped: bool
    text: str

    def __str__(self) -> str:
        return self.text


def make_folds(
    challenge: Challenge,
    workspace: Workspace,
    n_folds: int = 5,
    seed: int = 0,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
    force: bool = False,
) -> FoldReport:
    """Split the training rows into folds.csv and say in folds.json how even they are.

    With `allow_missing` only rows whose image exists are split. A split that is already there is kept; raises
    UserError if it is another one, unless `force`, after which runs trained on the former split are refused.
    """
    path = workspace.folds_path(challenge.name)
    if allow_missing:
        table = load_table(
            challenge, "train", workspace, allow_missing=True, drop_shared_patients=drop_shared_patients
        )
    else:
        table = load_labels(challenge, "train", workspace, drop_shared_patients=drop_shared_patients)
    if not _are_there(path) or force:
        with exclusive(path.parent, wait=True):
            if not _are_there(path) or force:  # nor has another process made them meanwhile
                return _made(challenge, workspace, table, n_folds, seed)
    sweep(path.parent)
    _require_same(read_folds(challenge, workspace), table, n_folds, seed, challenge, workspace)
    figures = read_json(report_path(path), made_by=folds_command(challenge, n_folds, seed))
    return FoldReport(path, figures, True, f"folds: already done ({path})")


def _are_there(path: Path) -> bool:
    return path.is_file() and report_path(path).is_file()


def _made(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, n_folds: int, seed: int
) -> FoldReport:
    """folds.json comes last: without it, or beside another folds.csv, there is no split to read."""
    path = workspace.folds_path(challenge.name)
    former = sha256_of(path) if path.is_file() else ""
    fold = split_patients(table, challenge.classes, n_folds, seed)
    figures = {"challenge": challenge.name, "n_folds": n_folds, "seed": seed, "sha256": ""}
    figures |= balance(table, challenge.classes, fold)
    _write_csv(pd.DataFrame({"patient": table["patient"], "fold": fold}), path)
    figures["sha256"] = sha256_of(path)
    write_json(report_path(path), figures)
    text = f"{describe(figures, challenge.name)}\n  {path}"
    if figures["sha256"] != former and (runs := _runs(challenge, workspace)):
        text += f"\n  Made anew: runs trained on another split are refused from now on ({listing(runs)})."
    return FoldReport(path, figures, False, text)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index_label="image_id", lineterminator="\n")


def _runs(challenge: Challenge, workspace: Workspace) -> list[str]:
    """Names of the runs and ensembles beside folds.csv."""
    return sorted(folder.name for folder in workspace.folds_dir(challenge.name).glob("*") if folder.is_dir())


def _require_same(
    there: Folds, table: pd.DataFrame, n_folds: int, seed: int, challenge: Challenge, workspace: Workspace
) -> None:
    differing = []
    if (there.n_folds, there.seed) != (n_folds, seed):
        differing.append(f"it has {there.n_folds} folds of seed {there.seed}, not {n_folds} of seed {seed}")
    if len(new := table.index.difference(there.frame.index, sort=False)):
        differing.append(f"it lacks {len(new):,} rows of the table: {listing(new)}")
    if len(gone := there.frame.index.difference(table.index, sort=False)):
        differing.append(f"it has {len(gone):,} rows which the table lacks: {listing(gone)}")
    both = there.frame.index.intersection(table.index)
    moved = (there.frame.loc[both, "patient"].fillna("") != table.loc[both, "patient"].fillna("")).to_numpy()
    if moved.any():
        differing.append(f"{moved.sum():,} rows have another patient there: {listing(both[moved])}")
    if differing:
        runs = _runs(challenge, workspace)
        lost = f": {listing(runs)} would then have to be trained again" if runs else ""
        command = folds_command(challenge, there.n_folds, there.seed)
        raise UserError(
            f"{workspace.folds_path(challenge.name)} is another split: {'; '.join(differing)}. "
            f"Ask for the one there ({command}, with --allow-missing if it was made so), or replace it "
            f"with --force{lost}."
        )
