"""The training rows as the folds hold them, and how the table has changed since these were made."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds, read_folds
from cxrlt.inputs.shared_patients import find_shared_patients, other_tables
from cxrlt.inputs.table import with_files


@dataclass(frozen=True)
class TrainRows:
    """The rows of folds.csv that the training table still has, with labels and `fold`, in the order of
    folds.csv.

    `new` are rows of the table that are in no fold, and were not left out on purpose when it was made; `gone`
    those of the folds that the table lacks, and `leaking` patients of the table who are in more than one
    fold.
    """

    folds: Folds
    table: pd.DataFrame
    new: pd.Index = field(default_factory=lambda: pd.Index([]))
    gone: pd.Index = field(default_factory=lambda: pd.Index([]))
    leaking: tuple[str, ...] = ()

    @property
    def fold(self) -> pd.Series:
        return self.table["fold"]

    def only(self, folds: Collection[int]) -> "TrainRows":
        """The rows of these folds alone."""
        table = self.table[self.table["fold"].isin(folds)]
        return replace(self, folds=self.folds.only(folds), table=table)

    def notes(self, challenge: str) -> list[str]:
        """What an evaluation or a fit says about rows that it leaves out; nothing if nothing has changed."""
        extend = f"cxrlt folds {challenge} --extend"
        notes = []
        if len(self.new):
            notes.append(f"{len(self.new):,} rows of the training table are not in the folds: {extend}")
        if len(self.gone):
            notes.append(
                f"{len(self.gone):,} rows of the folds are no longer in the training table and do not count: "
                f"{extend}"
            )
        if self.leaking:
            notes.append(
                f"{len(self.leaking):,} patients of the table are in several folds, so scores are too high: "
                f"cxrlt folds {challenge} --force"
            )
        return notes

    def require_complete(self, challenge: str) -> None:
        """Raises UserError if the folds hold rows that the table lacks, or a patient in several folds."""
        if len(self.gone):
            raise UserError(
                f"{challenge}: {len(self.gone):,} rows of folds.csv are no longer in the training table: "
                f"{listing(self.gone)}. Take them out of the folds with: cxrlt folds {challenge} --extend"
            )
        if self.leaking:
            raise UserError(
                f"{challenge}: {len(self.leaking):,} patients of the training table are in more than one "
                f"fold of folds.csv: {listing(self.leaking)}. Split again with: "
                f"cxrlt folds {challenge} --force"
            )


def read_train_rows(challenge: Challenge, workspace: Workspace) -> TrainRows:
    """The training rows that are in folds. Raises UserError if there are no folds, or none of their rows."""
    folds = read_folds(challenge, workspace)
    table = challenge.read("train", workspace.inputs_dir(challenge.name))
    frame = folds.frame
    gone = frame.index.difference(table.index, sort=False)
    new = _could_be_split(challenge, workspace, table, folds, table.index.difference(frame.index, sort=False))
    kept = frame.drop(gone) if len(gone) else frame
    if kept.empty:
        raise UserError(
            f"{workspace.folds_path(challenge.name)} holds not one row of the training table. Split again "
            f"with: cxrlt folds {challenge.name} --force"
        )
    table = table.loc[kept.index].assign(fold=kept["fold"])
    pairs = table[["patient", "fold"]].dropna().drop_duplicates()["patient"]
    return TrainRows(folds, table, new, gone, tuple(sorted(pairs[pairs.duplicated()].unique())))


def _could_be_split(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, folds: Folds, new: pd.Index
) -> pd.Index:
    """Those of `new` that the split would take in by the flags it was made with."""
    if len(new) and folds.made.allow_missing and workspace.images_dir(challenge.name).is_dir():
        new = new[with_files(challenge, table.loc[new], workspace)["file"].notna().to_numpy()]
    if len(new) and folds.made.drop_shared_patients:
        shared = find_shared_patients(table, other_tables(challenge, workspace))
        new = new.difference(shared.images, sort=False)
    return new
