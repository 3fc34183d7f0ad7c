"""The split of a challenge as every later stage reads it: the file that was made, and a sound one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from cxrlt.artifacts import Artifact, Workspace, read_model
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import LARGEST_TABLE, read_csv
from cxrlt.errors import UserError, listing
from cxrlt.provenance import digest
from cxrlt.system.atomic_files import sha256_of
from cxrlt.system.user_files import require_file

COLUMNS = ("image_id", "patient", "fold")
REFIT = "refit"
"""What stands for a fold where a model is trained on all rows."""


class SplitIdentity:
    """Digests of a split into folds: of the whole, and for each fold of the rows that it is trained on."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._rows: dict[str, str] = {}

    @cached_property
    def split(self) -> str:
        """Of every row's patient and fold."""
        return digest(self._frame[["patient", "fold"]])

    def rows(self, fold: int | str) -> str:
        """Of ids and patients of the rows that `fold` is trained on: all others, or all rows for a refit."""
        fold = str(fold)
        if fold not in self._rows:
            trained_on = self._frame["fold"].astype(str) != fold
            self._rows[fold] = digest(self._frame.loc[trained_on, "patient"])
        return self._rows[fold]


@dataclass(frozen=True)
class Folds:
    """folds.csv as it is used: `frame` has index image_id and columns patient (str or NA) and fold (int).

    `identity` is that of all rows, even where `frame` holds the rows of some folds alone. `made` is what
    folds.json says.
    """

    frame: pd.DataFrame
    identity: SplitIdentity
    made: "FoldsRecord"

    @property
    def n_folds(self) -> int:
        return self.made.n_folds

    @property
    def held(self) -> list[int]:
        """The folds whose rows `frame` holds: all of them, unless some were picked."""
        return sorted(int(fold) for fold in self.frame["fold"].unique())

    def only(self, folds: Collection[int]) -> "Folds":
        """The same split with the rows of these folds alone."""
        return replace(self, frame=self.frame[self.frame["fold"].isin(folds)])

    def accepting(self, before: Mapping[str, object], fold: int | str | None) -> Mapping[str, object]:
        """`before` with the digests there are now, where the split has only been extended since.

        Then no row has moved to another fold, so what was trained or fitted without a fold never saw its
        rows.
        """
        now = self._digests(fold)
        return {**before, **{part: now[part] for part in self.extended_since(before, fold)}}

    def has_trained(self, before: Mapping[str, object], fold: int | str) -> bool:
        """Whether weights of `fold`, made of `before`, were trained on this split, extended since or not."""
        return self.accepting(before, fold).get("rows") == self.identity.rows(fold)

    def extended_since(self, before: Mapping[str, object], fold: int | str | None) -> list[str]:
        """The parts, of "split" and "rows", that were made before `cxrlt folds --extend` changed them."""
        parts = []
        for former in self.made.former:
            if before.get("split") == former.split:
                parts.append("split")
            if fold is not None and before.get("rows") == former.rows.get(str(fold)):
                parts.append("rows")
        now = self._digests(fold)
        return [part for part in dict.fromkeys(parts) if before.get(part) != now[part]]

    def _digests(self, fold: int | str | None) -> dict[str, str | None]:
        return {"split": self.identity.split, "rows": None if fold is None else self.identity.rows(fold)}


class FormerSplit(Artifact):
    """Digests of a split before it was extended: `rows` by fold."""

    split: str
    rows: dict[str, str]


class FoldsRecord(Artifact):
    """folds.json: how folds.csv was made. The figures of its report stand beside these keys."""

    model_config = ConfigDict(extra="allow")

    challenge: str
    n_folds: int = Field(ge=2, strict=True)
    seed: int = Field(strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    allow_missing: bool = False
    """Rows without an image were left out."""
    drop_shared_patients: bool = False
    """Patients that dev or test has too were left out."""
    group_duplicates: bool = False
    """Patients that share an identical picture were made one."""
    former: tuple[FormerSplit, ...] = ()
    """What it was before each `--extend`."""


def report_path(folds_path: Path) -> Path:
    return folds_path.with_suffix(".json")


def folds_command(challenge: Challenge, n_folds: int, seed: int) -> str:
    return f"cxrlt folds {challenge.name} --n-folds {n_folds} --seed {seed}"


def read_folds(challenge: Challenge, workspace: Workspace) -> Folds:
    """folds.csv of the challenge.

    Raises UserError, with the command that makes it again, if it is missing, is not the file that was made,
    or is no split: an image twice, a patient in two folds, other folds than there should be.
    """
    path = workspace.folds_path(challenge.name)
    made = read_model(report_path(path), FoldsRecord, f"cxrlt folds {challenge.name}")
    again = folds_command(challenge, made.n_folds, made.seed)
    try:
        require_file(path, "", LARGEST_TABLE)
        if sha256_of(path) != made.sha256:
            raise UserError(
                f"{path} was changed after it was made: its hash is not the one in {report_path(path).name}."
            )
        frame = _read_split(path, made.n_folds)
    except UserError as error:
        raise UserError(f"{error} Make it again with: {again} --force") from error
    return Folds(frame, SplitIdentity(frame), made)


def _read_split(path: Path, n_folds: int) -> pd.DataFrame:
    file = read_csv(path)
    if tuple(file.columns) != COLUMNS:
        raise UserError(f"{path} should have the columns {listing(COLUMNS)}, not {listing(file.columns)}.")
    image_id, patient, fold = (file.text(name) for name in COLUMNS)
    if (twice := image_id.duplicated()).any():
        raise UserError(f"{path} has an image more than once: {listing(image_id[twice])}.")
    if n_folds > len(fold) or set(fold) != set(map(str, range(n_folds))):
        found = listing(sorted(set(fold)))
        raise UserError(f"{path} should have the folds 0 to {n_folds - 1}, not {found}.")
    known = patient != ""
    pairs = pd.DataFrame({"patient": patient[known], "fold": fold[known]}).drop_duplicates()
    if (several := pairs["patient"].duplicated()).any():
        raise UserError(f"{path} has patients in more than one fold: {listing(pairs['patient'][several])}.")
    frame = pd.DataFrame({"patient": patient.replace("", pd.NA), "fold": fold.astype(np.int64)})
    return frame.set_index(pd.Index(image_id, name="image_id"))
