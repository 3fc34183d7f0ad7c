from pathlib import Path

import pytest

from tiny import SimulatedRuns, set_up_challenge


@pytest.fixture
def runs(tmp_path: Path) -> SimulatedRuns:
    return set_up_challenge(tmp_path)
