import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are too small to share out


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
