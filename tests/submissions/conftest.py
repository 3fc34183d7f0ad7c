from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from five_images import CLASSES, FIVE_IMAGES, IDS
from tiny import SimulatedRuns, make_simulated_runs


@pytest.fixture
def challenge() -> Challenge:
    return FIVE_IMAGES


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def probabilities() -> pd.DataFrame:
    values = np.random.default_rng(0).random((len(IDS), len(CLASSES)))
    return pd.DataFrame(values, index=IDS, columns=list(CLASSES))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """A challenge with two models; tests that change files set up one of their own."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("runs"), n_patients=60)
    runs.add_run("one", skill=2.0, seed=1)
    runs.add_run("two", skill=1.0, seed=2)
    return runs
