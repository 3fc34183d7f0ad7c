from collections.abc import Iterator

import pytest
from harness import Harness, start_harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Return a harness with the files of an undisturbed run of every stage."""
    with start_harness(tmp_path_factory.mktemp("faults")) as harness:
        yield harness
