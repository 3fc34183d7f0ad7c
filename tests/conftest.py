import gc
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tiny import SimulatedRuns, set_up_challenge

TOGETHER = ("tests/faults/", "tests/experiments/losses/", "tests/experiments/tricks/")
"""Folders whose files share a run that takes long to make: one worker gets them all."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are too small to share out


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file stays with one worker, for its fixtures' sake."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByFile(config, log)


def scope_of(nodeid: str) -> str:
    """Its file, or the folder whose files stay together."""
    file = nodeid.split("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has the most slow tests comes first, so that no worker waits at the end for another."""
    n_slow = Counter(scope_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[scope_of(item.nodeid)])


def pytest_collection_finish() -> None:
    """Every training looks for garbage when it ends: not among all modules and four thousand tests."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def nih_data() -> Path:
    """The folder nih/ below $CXRLT_TEST_DATA: official tables and some of the images."""
    root = os.environ.get("CXRLT_TEST_DATA")
    if not root:
        pytest.skip("CXRLT_TEST_DATA is not set")
    folder = Path(root) / "nih"
    if not os.access(folder / "Data_Entry_2017_v2020.csv", os.R_OK):
        pytest.fail(f"CXRLT_TEST_DATA is set, but {folder} is not readable")
    return folder


@pytest.fixture(scope="session")
def challenge_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    return set_up_challenge(tmp_path_factory.mktemp("challenge"))


@pytest.fixture
def runs(challenge_of_the_tests: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    """A challenge without runs, which a test may change."""
    return challenge_of_the_tests.copy(tmp_path)


@pytest.fixture
def add_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Imports a module, given its source, which nothing else mentions; `registries` forget it afterwards."""
    before: list[tuple[dict, dict]] = []
    names: list[str] = []

    def add(name: str, source: str, *registries: dict) -> None:
        before.extend((registry, dict(registry)) for registry in registries)
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.import_module(name)
        names.append(name)

    yield add
    for registry, entries in before:
        registry.clear()
        registry.update(entries)
    for name in names:
        del sys.modules[name]
