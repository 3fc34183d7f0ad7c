from pathlib import Path

import pytest

from tiny import SimulatedRuns, set_up_challenge


@pytest.fixture(scope="session")
def challenge_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    return set_up_challenge(tmp_path_factory.mktemp("challenge"))


@pytest.fixture
def runs(challenge_of_the_tests: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    """A challenge without runs, which a test may change."""
    return challenge_of_the_tests.copy(tmp_path)
