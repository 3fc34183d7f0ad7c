"""The code in a submission runs by itself: it is the whole package, as in a wheel."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cxrlt
from cxrlt.submissions.submit import submit

PACKAGE = Path(cxrlt.__file__).parent
PAGE = """
import cxrlt
from cxrlt.recipe import load_recipe, recipe_names
from cxrlt.reports.page import write_page
from pathlib import Path
write_page(Path("page.html"), "A study", [])
print(cxrlt.__file__, len(recipe_names()), load_recipe("demo_resnet").model.backbone)
"""


@pytest.fixture(scope="module")
def unpacked(pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(submit(pair.challenge, pair.workspace, "one", with_code=True).zip_path) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(unpacked / "code/src"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, *words], cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def data_files() -> set[Path]:
    """Of the package, what is no code."""
    found = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file())
    return {path for path in found if path.suffix not in (".py", ".pyc") and path.name[0] != "."}


def test_the_unpacked_code_has_every_file_of_the_package(unpacked):
    packed = unpacked / "code/src/cxrlt"
    files = {path.relative_to(packed) for path in packed.rglob("*") if path.is_file()}
    code = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert files == code | data_files()
    assert {path.suffix for path in data_files()} >= {".yaml", ".jinja"}


def test_the_unpacked_code_has_the_command(unpacked):
    assert "cxrlt [-h]" in run(unpacked, "-m", "cxrlt", "--help")


def test_the_unpacked_code_finds_its_recipes_and_its_templates(unpacked):
    file, n_recipes, backbone = run(unpacked, "-c", PAGE).split()
    assert Path(file).is_relative_to(unpacked)
    assert int(n_recipes) == len(list(PACKAGE.glob("recipes/*.yaml")))
    assert backbone
    assert "A study" in (unpacked / "page.html").read_text()


def test_a_wheel_has_every_file_of_the_package():
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["cxrlt"]
    packed = {path.relative_to(PACKAGE) for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert packed == data_files()
