from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge


@dataclass(frozen=True)
class CsvRows(Challenge):
    """A challenge that consists of one table per split."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        table = pd.read_csv(inputs_dir / f"{split}.csv", index_col="image_id", dtype={"patient": "string"})
        return table.astype(dict.fromkeys(self.classes, np.float32))

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return self.read(split, inputs_dir).index.tolist()


def long_tailed_table(n_patients: int, prevalence: dict[str, float], seed: int = 0) -> pd.DataFrame:
    """Return a table with one to six images per patient.

    Each image of a positive patient is positive with probability 0.6.
    """
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 7, size=n_patients))
    table = pd.DataFrame({"patient": [f"p{p:05d}" for p in patient]}, dtype="string")
    table.index = pd.Index([f"i{row:06d}" for row in range(len(table))], name="image_id")
    table["study"], table["view"] = table["patient"], "frontal"
    table["path"] = table.index + ".png"
    for name, share in prevalence.items():
        sick = rng.random(n_patients) < share
        table[name] = (sick[patient] & (rng.random(len(patient)) < 0.6)).astype(np.float32)
    return table


PREVALENCE = {"Effusion": 0.4, "Mass": 0.1, "Hernia": 0.03}


@pytest.fixture
def table() -> pd.DataFrame:
    return long_tailed_table(300, PREVALENCE)


@pytest.fixture
def challenge() -> Challenge:
    counts = {name: int(share * 1000) for name, share in PREVALENCE.items()}
    return CsvRows("tiny", "Tiny", counts, 1000, splits=("train",), recipes=())


@pytest.fixture
def workspace(tmp_path: Path, table: pd.DataFrame) -> Workspace:
    """Return a root that contains the challenge's table."""
    workspace = Workspace(tmp_path)
    workspace.inputs_dir("tiny").mkdir(parents=True)
    table.to_csv(workspace.inputs_dir("tiny") / "train.csv")
    return workspace
