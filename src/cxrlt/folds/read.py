"""The split of a challenge as every later stage reads it: the file that was made, and a sound one."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrlt.artifacts import Workspace, sha256_of
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import LARGEST_TABLE, read_csv
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.user_file import read_text, require_file

COLUMNS = ("image_id", "patient", "fold")


@dataclass(frozen=True)
class Folds:
    """folds.csv as it is used: `frame` has index image_id and columns patient (str or NA) and fold (int)."""

    frame: pd.DataFrame
    sha256: str
    n_folds: int
    seed: int

    @property
    def held(self) -> list[int]:
        """The folds whose rows `frame` holds: all of them, unless some were picked."""
        return sorted(int(fold) for fold in self.frame["fold"].unique())

    def only(self, folds: Collection[int]) -> "Folds":
        """The same split with the rows of these folds alone."""
        return replace(self, frame=self.frame[self.frame["fold"].isin(folds)])


class _Made(BaseModel):
    """What of folds.json is needed to trust folds.csv."""

    model_config = ConfigDict(frozen=True, strict=True)

    n_folds: int = Field(ge=2)
    seed: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def report_path(folds_path: Path) -> Path:
    return folds_path.with_suffix(".json")


def folds_command(challenge: Challenge, n_folds: int, seed: int) -> str:
    return f"cxrlt folds {challenge.name} --n-folds {n_folds} --seed {seed}"


def read_folds(challenge: Challenge, workspace: Workspace) -> Folds:
    """folds.csv of the challenge.

    Raises UserError, with the command that makes it anew, if it is missing, is not the file that was made, or
    is no split: an image twice, a patient in two folds, other folds than there should be.
    """
    path = workspace.folds_path(challenge.name)
    made = _read_report(report_path(path), challenge)
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
    return Folds(frame, made.sha256, made.n_folds, made.seed)


def _read_report(path: Path, challenge: Challenge) -> _Made:
    again = f"cxrlt folds {challenge.name}"
    try:
        return _Made.model_validate_json(read_text(path, f"Make it with: {again}"))
    except MissingFileError:
        raise
    except UserError as error:
        raise UserError(f"{error} Make it again with: {again} --force") from error
    except ValidationError as error:
        faults = listing((": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors()), 3)
        raise UserError(f"{path} is damaged ({faults}). Make it again with: {again} --force") from error


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
