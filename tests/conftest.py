import gc
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tiny import SimulatedRuns, make_simulated_runs

SHARED_FOLDERS = ("tests/faults/", "tests/experiments/losses/", "tests/experiments/tricks/")
"""Folders whose test files share a slow fixture: one xdist worker runs all their tests."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks in the tests are too small for several threads


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Run all tests of a file in one worker, because they share fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByFile(config, log)


def scope_of(nodeid: str) -> str:
    """Return the test's file, or its folder if it is in SHARED_FOLDERS."""
    file = nodeid.split("::")[0]
    return next((folder for folder in SHARED_FOLDERS if file.startswith(folder)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that have the most slow tests, so that the workers finish together."""
    n_slow = Counter(scope_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[scope_of(item.nodeid)])


def pytest_collection_finish() -> None:
    """Exclude modules and collected tests from garbage collection, which every training runs at its end."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def nih_data() -> Path:
    """Return the folder nih/ below $CXRLT_TEST_DATA, with the official tables and some images."""
    root = os.environ.get("CXRLT_TEST_DATA")
    if not root:
        pytest.skip("CXRLT_TEST_DATA is not set")
    folder = Path(root) / "nih"
    if not os.access(folder / "Data_Entry_2017_v2020.csv", os.R_OK):
        pytest.fail(f"CXRLT_TEST_DATA is set, but {folder} is not readable")
    return folder


@pytest.fixture(scope="session")
def single_label_data() -> Path:
    """Return the folder $CXRLT_TEST_DATA, with the single-label sets (ham10000, isic2019, odir5k, ...)."""
    root = os.environ.get("CXRLT_TEST_DATA")
    if not root:
        pytest.skip("CXRLT_TEST_DATA is not set")
    if not os.access(Path(root) / "ham10000" / "HAM10000_metadata.csv", os.R_OK):
        pytest.fail(f"CXRLT_TEST_DATA is set, but {root}/ham10000 is not readable")
    return Path(root)


@pytest.fixture(scope="session")
def session_runs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    return make_simulated_runs(tmp_path_factory.mktemp("challenge"))


@pytest.fixture
def runs(session_runs: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    """Return a challenge without runs, which a test may change."""
    return session_runs.copy(tmp_path)


@pytest.fixture
def add_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that imports a module from its source; `registries` are restored afterwards."""
    before: list[tuple[dict, dict]] = []
    names: list[str] = []

    def add(name: str, source: str, *registries: dict) -> None:
        before.extend((registry, dict(registry)) for registry in registries)
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.import_module(name)
        names.append(name)

    yield add
    for registry, entries in reversed(before):
        registry.clear()
        registry.update(entries)
    for name in names:
        del sys.modules[name]
