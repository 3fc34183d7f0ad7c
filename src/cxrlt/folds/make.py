"""The split of a challenge: made once, hashed, and read by every later stage."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.balance import balance, describe
from cxrlt.folds.read import REFIT, Folds, FormerSplit, folds_command, read_folds, report_path
from cxrlt.folds.split import split_patients
from cxrlt.inputs.pixels import pixel_hashes
from cxrlt.inputs.shared_pictures import grouped_patients
from cxrlt.inputs.table import load_labels, load_table
from cxrlt.system.atomic_files import atomic_path, sha256_of, write_json
from cxrlt.system.locks import exclusive, remove_leftovers


@dataclass(frozen=True)
class FoldPlan:
    """What split is wanted.

    With `allow_missing` only rows whose image exists are split. `group_duplicates` makes patients who share
    an identical picture one. `force` replaces the split that is there; runs trained on it are then refused.
    """

    n_folds: int = 5
    seed: int = 0
    allow_missing: bool = False
    drop_shared_patients: bool = False
    group_duplicates: bool = False
    force: bool = False


def make_folds(
    challenge: Challenge, workspace: Workspace, n_folds: int = 5, seed: int = 0, **flags: bool
) -> str:
    """Split the training rows into folds.csv and write to folds.json how even they are; what was done.

    `flags` are those of `FoldPlan`. A split that is already there is kept. Raises UserError if it is another
    one, unless `force`, and if the table has changed since it was made, which `extend_folds` is for.
    """
    plan, path = FoldPlan(n_folds, seed, **flags), workspace.folds_path(challenge.name)
    table = _table(challenge, workspace, plan)
    if not _is_made(path) or plan.force:
        with exclusive(path.parent, wait=True):
            if not _is_made(path) or plan.force:  # not made by another process meanwhile
                if plan.group_duplicates:
                    table = _grouped(challenge, workspace, table)
                fold = split_patients(table, challenge.classes, n_folds, seed)
                return _write(challenge, workspace, table, fold, plan, ())
    remove_leftovers(path.parent)
    _require_same(read_folds(challenge, workspace), table, plan, challenge, workspace)
    return f"folds: already done ({path})"


def extend_folds(
    challenge: Challenge,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> str:
    """Add to the split the rows that are new in the training table, and take out those that are gone from it.

    No row moves to another fold, so weights and predictions stay usable. Raises UserError if there is no
    split yet, and if rows have another patient now.
    """
    path = workspace.folds_path(challenge.name)
    with exclusive(path.parent, wait=True):
        there = read_folds(challenge, workspace)
        made = there.made
        plan = FoldPlan(
            made.n_folds,
            made.seed,
            allow_missing=allow_missing or made.allow_missing,
            drop_shared_patients=drop_shared_patients or made.drop_shared_patients,
            group_duplicates=made.group_duplicates,
        )
        table = _table(challenge, workspace, plan)
        if moved := _moved(there, table):
            raise UserError(
                f"{path}: {moved}, so rows would have to move to other folds. Split again with: "
                f"{folds_command(challenge, made.n_folds, made.seed)} --force"
            )
        new, gone = table.index.difference(there.frame.index), there.frame.index.difference(table.index)
        if new.empty and gone.empty:
            return f"folds: nothing to add ({path})"
        if made.group_duplicates:
            table = _grouped(challenge, workspace, table, there)
        fold = split_patients(table, challenge.classes, made.n_folds, made.seed, there.frame["fold"])
        done = _write(challenge, workspace, table, fold, plan, (*made.former, _as_former(there)))
    return f"{done}\n  Extended: {len(new):,} rows added, {len(gone):,} taken out; no row was moved."


def _as_former(there: Folds) -> FormerSplit:
    """What weights and predictions of this split are known by, after it was extended."""
    units = (*range(there.made.n_folds), REFIT)
    return FormerSplit(
        split=there.identity.split, rows={str(unit): there.identity.rows(unit) for unit in units}
    )


def _table(challenge: Challenge, workspace: Workspace, plan: FoldPlan) -> pd.DataFrame:
    drop = plan.drop_shared_patients
    if plan.allow_missing:
        return load_table(challenge, "train", workspace, allow_missing=True, drop_shared_patients=drop)
    return load_labels(challenge, "train", workspace, drop_shared_patients=drop)


def _grouped(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, there: Folds | None = None
) -> pd.DataFrame:
    """The table with patients who share an identical picture made one, by the names `there` has for them."""
    hashes = pixel_hashes(challenge, workspace, "train", table)
    if hashes is None or hashes.isna().any():
        unknown = len(table) if hashes is None else int(hashes.isna().sum())
        raise UserError(
            f"{challenge.name}: --group-duplicates compares pictures by the hashes that are kept beside "
            f"decoded images, and {unknown:,} of {len(table):,} training images are not decoded yet. "
            f"First run: cxrlt cache {challenge.name}"
        )
    table = table.assign(patient=grouped_patients(table, hashes))
    if there is None:
        return table
    known = there.frame["patient"].reindex(table.index)
    named = pd.DataFrame({"group": table["patient"], "known": known}).dropna().drop_duplicates()
    if (several := named["group"].duplicated(keep=False)).any():
        raise UserError(
            f"{workspace.folds_path(challenge.name)}: patients {listing(named['known'][several])} share an "
            f"identical picture now and are in the split as different patients. Split again with: "
            f"{folds_command(challenge, there.made.n_folds, there.made.seed)} --group-duplicates --force"
        )
    names = named.set_index("group")["known"]
    return table.assign(patient=table["patient"].map(names).fillna(table["patient"]))


def _is_made(path: Path) -> bool:
    return path.is_file() and report_path(path).is_file()


def _write(
    challenge: Challenge,
    workspace: Workspace,
    table: pd.DataFrame,
    fold: pd.Series,
    plan: FoldPlan,
    former: tuple[FormerSplit, ...],
) -> str:
    """folds.json comes last: without it, or beside another folds.csv, there is no split to read."""
    path = workspace.folds_path(challenge.name)
    before = sha256_of(path) if path.is_file() else ""
    figures = {"challenge": challenge.name, "n_folds": plan.n_folds, "seed": plan.seed, "sha256": ""}
    figures |= balance(table, challenge.classes, fold)
    flags = ("allow_missing", "drop_shared_patients", "group_duplicates")
    figures |= {flag: getattr(plan, flag) for flag in flags}
    figures["former"] = [each.model_dump() for each in former]
    with atomic_path(path) as temporary:
        frame = pd.DataFrame({"patient": table["patient"], "fold": fold})
        frame.to_csv(temporary, index_label="image_id", lineterminator="\n")
    figures["sha256"] = sha256_of(path)
    write_json(report_path(path), figures)
    text = f"{describe(figures, challenge.name)}\n  {path}"
    if figures["sha256"] != before and not former and (runs := _runs(challenge, workspace)):
        text += f"\n  Made again: runs trained on another split are refused from now on ({listing(runs)})."
    return text


def _runs(challenge: Challenge, workspace: Workspace) -> list[str]:
    """Names of the runs and ensembles beside folds.csv."""
    return sorted(folder.name for folder in workspace.folds_dir(challenge.name).glob("*") if folder.is_dir())


def _moved(there: Folds, table: pd.DataFrame) -> str | None:
    """What to say of rows whose patient is another one in the table than in the split; None if none is."""
    both = there.frame.index.intersection(table.index)
    here = table.loc[both, "patient"].fillna("")
    before = there.frame.loc[both, "patient"].fillna("")
    moved = (before != here).to_numpy()
    if there.made.group_duplicates:  # patients were renamed by their group: it is enough that each has one
        pairs = pd.DataFrame({"here": here, "before": before}).drop_duplicates()
        moved = here.isin(pairs["here"][pairs["here"].duplicated()]).to_numpy() & (here != "").to_numpy()
    return f"{moved.sum():,} rows have another patient there: {listing(both[moved])}" if moved.any() else None


def _require_same(
    there: Folds, table: pd.DataFrame, plan: FoldPlan, challenge: Challenge, workspace: Workspace
) -> None:
    made, differing, changed = there.made, [], []
    if (made.n_folds, made.seed) != (plan.n_folds, plan.seed):
        differing.append(
            f"it has {made.n_folds} folds of seed {made.seed}, not {plan.n_folds} of seed {plan.seed}"
        )
    if plan.group_duplicates and not made.group_duplicates:
        differing.append("it was made without --group-duplicates")
    if len(new := table.index.difference(there.frame.index, sort=False)):
        changed.append(f"it lacks {len(new):,} rows of the table: {listing(new)}")
    if len(gone := there.frame.index.difference(table.index, sort=False)):
        changed.append(f"it has {len(gone):,} rows which the table lacks: {listing(gone)}")
    if moved := _moved(there, table):
        differing.append(moved)
    if not (differing or changed):
        return
    runs = _runs(challenge, workspace)
    lost = f": {listing(runs)} would then have to be trained again" if runs else ""
    command = folds_command(challenge, made.n_folds, made.seed)
    fix = f"Ask for the one there ({command}, with --allow-missing if it was made so)"
    if not differing:
        fix = f"Take the changes in without moving a row (cxrlt folds {challenge.name} --extend)"
    raise UserError(
        f"{workspace.folds_path(challenge.name)} is another split: {'; '.join(differing + changed)}. "
        f"{fix}, or replace it with --force{lost}."
    )
