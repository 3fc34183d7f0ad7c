"""A challenge with the rows of a few patients only, for a smoke run of the whole pipeline."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import MissingFileError
from cxrlt.inputs.table import add_file_column


@dataclass(frozen=True, kw_only=True)
class SmokeRunChallenge(Challenge):
    """The challenge `full` with `n_patients` patients per split; only rows whose image exists.

    The submission template has the same rows, so that a submission can be written and validated.
    """

    full: Challenge
    workspace: Workspace
    n_patients: int

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of the first `n_patients` patients of a split: index image_id."""
        table = add_file_column(self.full, self.full.read(split, inputs_dir), self.workspace).dropna(
            subset="file"
        )
        patients = table["patient"].fillna(pd.Series(table.index, index=table.index))
        kept = patients.drop_duplicates()[: self.n_patients]
        return table[patients.isin(kept)].drop(columns="file")

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """Return the ids of the template that are in the smaller table."""
        kept = set(self.read(split, inputs_dir).index)
        return [image_id for image_id in self.full.template(split, inputs_dir) if image_id in kept]

    def image_folders(self) -> tuple[str, ...]:
        """Return the glob patterns of `full`."""
        return self.full.image_folders()


def smoke_run_challenge(challenge: Challenge, workspace: Workspace, n_patients: int) -> SmokeRunChallenge:
    """Return `challenge` with `n_patients` patients per split, under the same name.

    Splits without any image are left out.
    """
    rules = {field.name: getattr(challenge, field.name) for field in fields(Challenge)}
    few = SmokeRunChallenge(**rules, full=challenge, workspace=workspace, n_patients=n_patients)
    return replace(few, splits=tuple(split for split in few.splits if _has_images(few, split)))


def _has_images(challenge: SmokeRunChallenge, split: str) -> bool:
    try:
        return not challenge.read(split, challenge.workspace.inputs_dir(challenge.name)).empty
    except MissingFileError:  # a table that is not published yet: the stages handle it
        return True
