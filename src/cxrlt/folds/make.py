"""Split a challenge into folds: folds.csv is made once, and every later stage checks its hash."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge, SplitBy
from cxrlt.errors import UserError, listing
from cxrlt.folds.balance import balance, describe
from cxrlt.folds.read import REFIT, Folds, FormerSplit, folds_command, read_folds, report_path
from cxrlt.folds.split import split_patients
from cxrlt.inputs.duplicate_images import merge_duplicate_patients
from cxrlt.inputs.image_hashes import image_hashes
from cxrlt.inputs.table import load_labels, load_table
from cxrlt.system.atomic_files import atomic_path, sha256_of, write_json
from cxrlt.system.locks import lock_folder, remove_leftovers


@dataclass(frozen=True)
class FoldPlan:
    """Options of a split.

    `allow_missing` excludes rows whose image is missing. `drop_shared_patients` excludes patients that are
    also in dev or test. `group_duplicates` merges patients who share an identical image. `by` "image" splits
    images although patients have several, which needs `allow_leakage`. `force` replaces an existing split;
    runs trained on the old split are then refused.
    """

    n_folds: int = 5
    seed: int = 0
    allow_missing: bool = False
    drop_shared_patients: bool = False
    group_duplicates: bool = False
    by: SplitBy = "patient"
    allow_leakage: bool = False
    force: bool = False


def make_folds(
    challenge: Challenge, workspace: Workspace, n_folds: int = 5, seed: int = 0, **flags: Any
) -> str:
    """Split the training rows: write folds.csv, and its balance to folds.json. Return a message.

    `flags` are those of `FoldPlan`. An existing split is kept. Raises UserError if the existing split has
    other options (unless `force`), if the table has changed since (see `extend_folds`), or for a split by
    image that leaks without `allow_leakage`.
    """
    plan, path = FoldPlan(n_folds, seed, **flags), workspace.folds_path(challenge.name)
    plan = replace(plan, group_duplicates=plan.group_duplicates or challenge.group_duplicates)
    if plan.allow_leakage and plan.by == "patient":
        raise UserError("--allow-leakage is for --by image only: a split by patient does not leak.")
    table = _load_rows(challenge, workspace, plan)
    if not _is_complete(path) or plan.force:
        with lock_folder(path.parent, wait=True):
            if not _is_complete(path) or plan.force:  # another process may have made it meanwhile
                if plan.group_duplicates:
                    table = _merge_duplicates(challenge, workspace, table)
                plan = _effective_split(challenge, table, plan)
                fold = split_patients(_units(table, plan.by), challenge.classes, n_folds, seed)
                return _write(challenge, workspace, table, fold, plan, ())
    remove_leftovers(path.parent)
    existing = read_folds(challenge, workspace)
    _require_same(existing, table, plan, challenge, workspace)
    return "\n  ".join([f"folds: already done ({path})", *existing.leakage_notes(challenge)])


def extend_folds(
    challenge: Challenge,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> str:
    """Add new rows of the training table to folds.csv, remove deleted rows, and return a message.

    No row moves to another fold, so weights and predictions stay valid. Raises UserError if there is no split
    yet, or if the patient of a row has changed.
    """
    path = workspace.folds_path(challenge.name)
    with lock_folder(path.parent, wait=True):
        existing = read_folds(challenge, workspace)
        record = existing.record
        plan = FoldPlan(
            record.n_folds,
            record.seed,
            allow_missing=allow_missing or record.allow_missing,
            drop_shared_patients=drop_shared_patients or record.drop_shared_patients,
            group_duplicates=record.group_duplicates,
            by=record.by,
        )
        table = _load_rows(challenge, workspace, plan)
        if moved := _describe_moved(existing, table):
            raise UserError(
                f"{path}: {moved}, so rows would have to move to other folds. Split again with: "
                f"{folds_command(challenge, record)} --force"
            )
        new, removed = (
            table.index.difference(existing.frame.index),
            existing.frame.index.difference(table.index),
        )
        if new.empty and removed.empty:
            return f"folds: nothing to add ({path})"
        if record.group_duplicates:
            table = _merge_duplicates(challenge, workspace, table, existing)
        units = _units(table, record.by)
        fold = split_patients(units, challenge.classes, record.n_folds, record.seed, existing.frame["fold"])
        done = _write(challenge, workspace, table, fold, plan, (*record.former, _former_split(existing)))
    return f"{done}\n  Extended: {len(new):,} rows added, {len(removed):,} removed; no row was moved."


def _former_split(existing: Folds) -> FormerSplit:
    """Return the digests of the split before the extension, which its weights and predictions contain."""
    folds = (*range(existing.record.n_folds), REFIT)
    return FormerSplit(
        split=existing.identity.split, rows={str(fold): existing.identity.rows(fold) for fold in folds}
    )


def _load_rows(challenge: Challenge, workspace: Workspace, plan: FoldPlan) -> pd.DataFrame:
    drop = plan.drop_shared_patients
    if plan.allow_missing:
        return load_table(challenge, "train", workspace, allow_missing=True, drop_shared_patients=drop)
    return load_labels(challenge, "train", workspace, drop_shared_patients=drop)


def _merge_duplicates(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, existing: Folds | None = None
) -> pd.DataFrame:
    """Merge patients who share an identical image, with the names that `existing` has for them."""
    hashes = image_hashes(challenge, workspace, "train", table)
    if hashes is None or hashes.isna().any():
        unknown = len(table) if hashes is None else int(hashes.isna().sum())
        raise UserError(
            f"{challenge.name}: grouping identical images needs their hashes in the image cache, and "
            f"{unknown:,} of {len(table):,} training images are not in it yet. First run: "
            f"cxrlt cache {challenge.name}"
        )
    table = table.assign(patient=merge_duplicate_patients(table, hashes))
    if existing is None:
        return table
    known = existing.frame["patient"].reindex(table.index)
    named = pd.DataFrame({"group": table["patient"], "known": known}).dropna().drop_duplicates()
    if (several := named["group"].duplicated(keep=False)).any():
        raise UserError(
            f"{workspace.folds_path(challenge.name)}: patients {listing(named['known'][several])} now share "
            "an identical image but are different patients in the split. Split again with: "
            f"{folds_command(challenge, existing.record)} "
            "--group-duplicates --force"
        )
    names = named.set_index("group")["known"]
    return table.assign(patient=table["patient"].map(names).fillna(table["patient"]))


def _effective_split(challenge: Challenge, table: pd.DataFrame, plan: FoldPlan) -> FoldPlan:
    """Return `plan`, by patient if no patient has several images, as both splits are then the same.

    Raises UserError for a split by image that leaks, unless `allow_leakage`.
    """
    several = table["patient"].dropna().duplicated(keep=False)
    if plan.by == "patient" or not several.any():
        return replace(plan, by="patient")
    if not plan.allow_leakage:
        word = challenge.group_word
        raise UserError(
            f"{challenge.name}: --by image would put images of one {word} into several folds: "
            f"{several.sum():,} of {len(table):,} images share their {word} with another, so scores would be "
            f"too high. Remove --by image to keep {word}s whole, or add --allow-leakage: every score then "
            "repeats this."
        )
    return plan


def _units(table: pd.DataFrame, by: SplitBy) -> pd.DataFrame:
    """Return the table in which `patient` holds what stays whole: nothing in a split by image."""
    return table.assign(patient=None) if by == "image" else table


def _is_complete(path: Path) -> bool:
    return path.is_file() and report_path(path).is_file()


def _write(
    challenge: Challenge,
    workspace: Workspace,
    table: pd.DataFrame,
    fold: pd.Series,
    plan: FoldPlan,
    former: tuple[FormerSplit, ...],
) -> str:
    """Write folds.csv, then folds.json, without which it is invalid; return a message."""
    path = workspace.folds_path(challenge.name)
    before = sha256_of(path) if path.is_file() else ""
    figures = {"challenge": challenge.name, "n_folds": plan.n_folds, "seed": plan.seed, "sha256": ""}
    figures |= balance(table, challenge.classes, fold)
    flags = ("allow_missing", "drop_shared_patients", "group_duplicates", "by")
    figures |= {flag: getattr(plan, flag) for flag in flags}
    figures["former"] = [each.model_dump() for each in former]
    with atomic_path(path) as temporary:
        frame = pd.DataFrame({"patient": table["patient"], "fold": fold})
        frame.to_csv(temporary, index_label="image_id", lineterminator="\n")
    figures["sha256"] = sha256_of(path)
    write_json(report_path(path), figures)
    text = f"{describe(figures, challenge.name, challenge.group_word)}\n  {path}"
    if figures["sha256"] != before and not former and (runs := _run_names(challenge, workspace)):
        text += f"\n  Split again: runs trained on the old split are refused from now on ({listing(runs)})."
    return text


def _run_names(challenge: Challenge, workspace: Workspace) -> list[str]:
    """Return the names of the runs and ensembles in the folder of folds.csv."""
    return sorted(folder.name for folder in workspace.folds_dir(challenge.name).glob("*") if folder.is_dir())


def _describe_moved(existing: Folds, table: pd.DataFrame) -> str | None:
    """Return a message about rows whose patient differs between table and split; None if there are none."""
    both = existing.frame.index.intersection(table.index)
    now = table.loc[both, "patient"].fillna("")
    before = existing.frame.loc[both, "patient"].fillna("")
    moved = (before != now).to_numpy()
    if existing.record.group_duplicates:  # merged patients have another name
        pairs = pd.DataFrame({"now": now, "before": before}).drop_duplicates()
        moved = now.isin(pairs["now"][pairs["now"].duplicated()]).to_numpy() & (now != "").to_numpy()
    if not moved.any():
        return None
    return f"{moved.sum():,} rows have another patient in the split: {listing(both[moved])}"


def _require_same(
    existing: Folds, table: pd.DataFrame, plan: FoldPlan, challenge: Challenge, workspace: Workspace
) -> None:
    record, differing, changed = existing.record, [], []
    if (record.n_folds, record.seed) != (plan.n_folds, plan.seed):
        differing.append(
            f"it has {record.n_folds} folds with seed {record.seed}, not {plan.n_folds} with seed {plan.seed}"
        )
    if plan.group_duplicates and not record.group_duplicates:
        differing.append("it was made without --group-duplicates")
    has_groups = existing.frame["patient"].dropna().duplicated().any()
    if plan.by != record.by and has_groups:
        differing.append(f"it is by {record.by}, not by {plan.by}")
    if len(new := table.index.difference(existing.frame.index, sort=False)):
        changed.append(f"it lacks {len(new):,} rows of the table: {listing(new)}")
    if len(removed := existing.frame.index.difference(table.index, sort=False)):
        changed.append(f"it has {len(removed):,} rows that the table lacks: {listing(removed)}")
    if moved := _describe_moved(existing, table):
        differing.append(moved)
    if not (differing or changed):
        return
    runs = _run_names(challenge, workspace)
    lost = f" (then {listing(runs)} must be trained again)" if runs else ""
    command = folds_command(challenge, record)
    fix = f"Keep the existing split ({command}, with --allow-missing if it was made with this flag)"
    if not differing:
        fix = f"Add the changes without moving a row (cxrlt folds {challenge.name} --extend)"
    raise UserError(
        f"{workspace.folds_path(challenge.name)} is a different split: {'; '.join(differing + changed)}. "
        f"{fix}, or replace it with --force{lost}."
    )
