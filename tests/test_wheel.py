"""The wheel, installed into an empty environment, runs the demo from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXRLT_ROOT")}


def call(*words: object, folder: Path) -> str:
    """Run a command outside the repository; return what it prints."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the source: building leaves files beside it."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "wheels", ".", folder=folder)
    (path,) = (folder / "wheels").glob("cxrlt-*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of a new environment with the wheel and the packages that it needs."""
    folder = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "venv", "venv", folder=folder)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    call(programs / "python", "-m", "pip", "install", "--quiet", wheel, folder=folder)
    return programs


def test_the_wheel_has_every_module_recipe_template_and_the_typing_marker(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("cxrlt/")}
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "cxrlt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert "cxrlt/py.typed" in packed


def test_the_installed_package_runs_the_demo_up_to_the_submission(programs, tmp_path):
    call(programs / "cxrlt", "demo", "--patients", "45", folder=tmp_path)
    assert (tmp_path / "inputs" / "demo" / "train.csv").is_file()
    call(programs / "cxrlt", "run", "demo", "--quick", folder=tmp_path)
    submission = tmp_path / "folds" / "quick" / "submissions" / "demo" / "ensemble" / "submission.zip"
    with zipfile.ZipFile(submission) as archive:
        assert archive.namelist() == ["submission.csv"]
