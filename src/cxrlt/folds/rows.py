"""The training rows with their folds, and the changes of the table since the folds were made."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds, read_folds
from cxrlt.inputs.shared_patients import find_shared_patients, read_dev_and_test
from cxrlt.inputs.table import add_file_column


@dataclass(frozen=True)
class TrainRows:
    """The rows of folds.csv that are still in the training table.

    `table` has index image_id in the order of folds.csv, with the labels and a column `fold`. `new` are rows
    of the training table without a fold, except those that `cxrlt folds` excluded on purpose. `removed` are
    rows of folds.csv that the training table lacks. `leaking_patients` are patients in more than one fold
    although the split is by patient.
    """

    folds: Folds
    table: pd.DataFrame
    new: pd.Index = field(default_factory=lambda: pd.Index([]))
    removed: pd.Index = field(default_factory=lambda: pd.Index([]))
    leaking_patients: tuple[str, ...] = ()

    @property
    def fold(self) -> pd.Series:
        """Fold of every row: int, index image_id."""
        return self.table["fold"]

    def for_folds(self, folds: Collection[int]) -> "TrainRows":
        """Return the rows of these folds only."""
        table = self.table[self.table["fold"].isin(folds)]
        return replace(self, folds=self.folds.for_folds(folds), table=table)

    def notes(self, challenge: Challenge) -> list[str]:
        """Return notes for evaluation and calibration about changed rows and about a split by image."""
        extend = f"cxrlt folds {challenge.name} --extend"
        notes = self.folds.leakage_notes(challenge)
        if len(self.new):
            notes.append(f"{len(self.new):,} rows of the training table are not in the folds: {extend}")
        if len(self.removed):
            notes.append(
                f"{len(self.removed):,} rows of the folds are no longer in the training table and are "
                f"ignored: {extend}"
            )
        if self.leaking_patients:
            notes.append(
                f"{len(self.leaking_patients):,} patients of the table are in several folds, so scores are "
                f"too high (leakage): cxrlt folds {challenge.name} --force"
            )
        return notes

    def require_complete(self, challenge: str) -> None:
        """Raise UserError if the table lacks rows of the folds, or if a patient is in several folds."""
        if len(self.removed):
            raise UserError(
                f"{challenge}: {len(self.removed):,} rows of folds.csv are no longer in the training table: "
                f"{listing(self.removed)}. Remove them from the folds with: cxrlt folds {challenge} --extend"
            )
        if self.leaking_patients:
            raise UserError(
                f"{challenge}: {len(self.leaking_patients):,} patients of the training table are in more "
                f"than one fold of folds.csv: {listing(self.leaking_patients)}. Split again with: "
                f"cxrlt folds {challenge} --force"
            )


def read_train_rows(challenge: Challenge, workspace: Workspace) -> TrainRows:
    """Return the training rows that are in folds.csv.

    Raises UserError if there are no folds, or if the table has none of their rows.
    """
    folds = read_folds(challenge, workspace)
    table = challenge.read("train", workspace.inputs_dir(challenge.name))
    frame = folds.frame
    removed = frame.index.difference(table.index, sort=False)
    new = _unexpected_rows(
        challenge, workspace, table, folds, table.index.difference(frame.index, sort=False)
    )
    kept = frame.drop(removed) if len(removed) else frame
    if kept.empty:
        raise UserError(
            f"{workspace.folds_path(challenge.name)} has no row of the training table. Split again with: "
            f"cxrlt folds {challenge.name} --force"
        )
    table = table.loc[kept.index].assign(fold=kept["fold"])
    pairs = table[["patient", "fold"]].dropna().drop_duplicates()["patient"]
    leaking = pairs[pairs.duplicated() & (folds.record.by == "patient")].unique()
    return TrainRows(folds, table, new, removed, tuple(sorted(leaking)))


def _unexpected_rows(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, folds: Folds, new: pd.Index
) -> pd.Index:
    """Return those rows of `new` that `cxrlt folds` with the same flags would not exclude."""
    if len(new) and folds.record.allow_missing and workspace.images_dir(challenge.name).is_dir():
        new = new[add_file_column(challenge, table.loc[new], workspace)["file"].notna().to_numpy()]
    if len(new) and folds.record.drop_shared_patients:
        shared = find_shared_patients(table, read_dev_and_test(challenge, workspace))
        new = new.difference(shared.images, sort=False)
    return new
