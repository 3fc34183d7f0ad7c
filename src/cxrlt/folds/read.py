"""Read folds.csv and check it: unchanged since it was made, and a valid split."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from cxrlt.artifacts import Artifact, Workspace, read_artifact
from cxrlt.challenges.base import Challenge, SplitBy
from cxrlt.challenges.csv_file import MAX_TABLE_BYTES, read_csv
from cxrlt.errors import UserError, listing
from cxrlt.folds.balance import describe_leakage
from cxrlt.provenance import digest
from cxrlt.system.atomic_files import sha256_of
from cxrlt.system.user_files import require_file

COLUMNS = ("image_id", "patient", "fold")
REFIT = "refit"
"""Used in place of a fold number for a model that is trained on all rows."""


class SplitIdentity:
    """Digests of a split: one of the whole split, and one of the training rows of each fold."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._rows: dict[str, str] = {}

    @cached_property
    def split(self) -> str:
        """Digest of the patient and fold of every row."""
        return digest(self._frame[["patient", "fold"]])

    def rows(self, fold: int | str) -> str:
        """Return the digest of ids and patients of the training rows of `fold` (all rows for a refit)."""
        fold = str(fold)
        if fold not in self._rows:
            trained_on = self._frame["fold"].astype(str) != fold
            self._rows[fold] = digest(self._frame.loc[trained_on, "patient"])
        return self._rows[fold]


@dataclass(frozen=True)
class Folds:
    """folds.csv: `frame` has index image_id and columns patient (str or NA) and fold (int).

    `identity` always belongs to all rows, even if `frame` contains the rows of some folds only. `record` is
    the content of folds.json.
    """

    frame: pd.DataFrame
    identity: SplitIdentity
    record: "FoldsRecord"

    @property
    def n_folds(self) -> int:
        """Number of folds of the whole split."""
        return self.record.n_folds

    @property
    def fold_numbers(self) -> list[int]:
        """The folds whose rows are in `frame`."""
        return sorted(int(fold) for fold in self.frame["fold"].unique())

    def for_folds(self, folds: Collection[int]) -> "Folds":
        """Return the same split with the rows of these folds only."""
        return replace(self, frame=self.frame[self.frame["fold"].isin(folds)])

    def leakage_notes(self, challenge: Challenge) -> list[str]:
        """Return the sentence that every score of a split by image repeats; empty for a split by patient."""
        if self.record.by == "patient":
            return []
        return [describe_leakage(self.record.leaked_share, challenge.group_word)]

    def with_current_digests(
        self, provenance: Mapping[str, object], fold: int | str | None
    ) -> Mapping[str, object]:
        """Return `provenance` with the current digests if the split has only been extended since.

        `cxrlt folds --extend` moves no row to another fold, so a model that was trained without a fold has
        not seen any row of that fold.
        """
        now = self._digests(fold)
        return {**provenance, **{part: now[part] for part in self.parts_changed_by_extend(provenance, fold)}}

    def was_training_split(self, provenance: Mapping[str, object], fold: int | str) -> bool:
        """Return whether weights of `fold` with this provenance were trained on this split.

        Also true if the split has only been extended since.
        """
        return self.with_current_digests(provenance, fold).get("rows") == self.identity.rows(fold)

    def parts_changed_by_extend(self, provenance: Mapping[str, object], fold: int | str | None) -> list[str]:
        """Return which digests of `provenance` ("split", "rows") `cxrlt folds --extend` has changed since."""
        parts = []
        for former in self.record.former:
            if provenance.get("split") == former.split:
                parts.append("split")
            if fold is not None and provenance.get("rows") == former.rows.get(str(fold)):
                parts.append("rows")
        now = self._digests(fold)
        return [part for part in dict.fromkeys(parts) if provenance.get(part) != now[part]]

    def _digests(self, fold: int | str | None) -> dict[str, str | None]:
        return {"split": self.identity.split, "rows": None if fold is None else self.identity.rows(fold)}


class FormerSplit(Artifact):
    """Digests of a split before `cxrlt folds --extend`: `rows` are by fold."""

    split: str
    rows: dict[str, str]


class FoldsRecord(Artifact):
    """folds.json: how folds.csv was made. The file also contains the result of `balance`."""

    model_config = ConfigDict(extra="allow")

    challenge: str
    n_folds: int = Field(ge=2, strict=True)
    seed: int = Field(strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    allow_missing: bool = False
    """Rows without an image were excluded."""
    drop_shared_patients: bool = False
    """Patients that are also in dev or test were excluded."""
    group_duplicates: bool = False
    """Patients who share an identical image were merged."""
    by: SplitBy = "patient"
    """image: patients are in several folds, as the user allowed with --allow-leakage."""
    leaked_share: float = Field(0.0, ge=0, le=1)
    """Share of the images whose patient has an image in another fold."""
    former: tuple[FormerSplit, ...] = ()
    """The digests before each `--extend`."""


def report_path(folds_path: Path) -> Path:
    """Return the path of folds.json."""
    return folds_path.with_suffix(".json")


def folds_command(challenge: Challenge, record: FoldsRecord) -> str:
    """Return the command that makes a split with the options of `record`."""
    by_image = " --by image --allow-leakage" * (record.by == "image")
    return f"cxrlt folds {challenge.name} --n-folds {record.n_folds} --seed {record.seed}{by_image}"


def read_folds(challenge: Challenge, workspace: Workspace) -> Folds:
    """Read folds.csv of the challenge.

    Raises UserError, with the command that makes it again, if the file is missing, was changed, or is not a
    valid split (an image twice, a patient in two folds, missing or unknown folds). Only in a split by image,
    which the user allowed, a patient may be in two folds.
    """
    path = workspace.folds_path(challenge.name)
    record = read_artifact(report_path(path), FoldsRecord, f"cxrlt folds {challenge.name}")
    command = folds_command(challenge, record)
    try:
        require_file(path, "", MAX_TABLE_BYTES)
        if sha256_of(path) != record.sha256:
            raise UserError(
                f"{path} was changed after it was made: its hash is not the one in {report_path(path).name}."
            )
        frame = _read_split(path, record.n_folds, record.by)
    except UserError as error:
        raise UserError(f"{error} Renew it with: {command} --force") from error
    return Folds(frame, SplitIdentity(frame), record)


def _read_split(path: Path, n_folds: int, by: SplitBy) -> pd.DataFrame:
    file = read_csv(path)
    if tuple(file.columns) != COLUMNS:
        raise UserError(f"{path} should have the columns {listing(COLUMNS)}, not {listing(file.columns)}.")
    image_id, patient, fold = (file.text(name) for name in COLUMNS)
    if (repeated := image_id.duplicated()).any():
        raise UserError(f"{path} has an image more than once: {listing(image_id[repeated])}.")
    if n_folds > len(fold) or set(fold) != set(map(str, range(n_folds))):
        found = listing(sorted(set(fold)))
        raise UserError(f"{path} should have the folds 0 to {n_folds - 1}, not {found}.")
    known = patient != ""
    pairs = pd.DataFrame({"patient": patient[known], "fold": fold[known]}).drop_duplicates()
    if by == "patient" and (several := pairs["patient"].duplicated()).any():
        raise UserError(f"{path} has patients in more than one fold: {listing(pairs['patient'][several])}.")
    frame = pd.DataFrame({"patient": patient.replace("", pd.NA), "fold": fold.astype(np.int64)})
    return frame.set_index(pd.Index(image_id, name="image_id"))
