from collections.abc import Iterator

import pytest
from harness import Harness, started


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """What an undisturbed run of every stage leaves, and where the disturbed ones are run."""
    with started(tmp_path_factory.mktemp("faults")) as harness:
        yield harness
