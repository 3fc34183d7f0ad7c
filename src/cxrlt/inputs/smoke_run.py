"""A challenge cut down to a few patients, for a smoke run of the whole pipeline."""

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.inputs.table import with_files


@dataclass(frozen=True, kw_only=True)
class SmokeRunChallenge(Challenge):
    """`full` with the rows of `n_patients` patients per split, of those whose images are there.

    The template is cut down, too, so that a submission can be written and validated.
    """

    full: Challenge
    workspace: Workspace
    n_patients: int

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        table = with_files(self.full, self.full.read(split, inputs_dir), self.workspace).dropna(subset="file")
        units = table["patient"].fillna(pd.Series(table.index, index=table.index))
        kept = units.drop_duplicates()[: self.n_patients]
        return table[units.isin(kept)].drop(columns="file")

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        kept = set(self.read(split, inputs_dir).index)
        return [image_id for image_id in self.full.template(split, inputs_dir) if image_id in kept]

    def image_folders(self) -> tuple[str, ...]:
        return self.full.image_folders()


def smoke_run_challenge(challenge: Challenge, workspace: Workspace, n_patients: int) -> SmokeRunChallenge:
    """The cut-down challenge, under the same name."""
    rules = {field.name: getattr(challenge, field.name) for field in fields(Challenge)}
    return SmokeRunChallenge(**rules, full=challenge, workspace=workspace, n_patients=n_patients)
