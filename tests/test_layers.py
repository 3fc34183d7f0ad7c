"""Imports go in one direction, so that each package can be read without the packages above it."""

import ast
from pathlib import Path

import pytest

import cxrlt

PACKAGE = Path(cxrlt.__file__).parent
LAYERS = [
    {"cli", "__main__"},
    {"commands"},
    {"run_plan", "results"},
    {"pipeline", "experiments"},
    {"reports", "submissions"},
    {"calibration"},
    {"ensembles"},
    {"predictions"},
    {"training"},
    {"models", "losses", "folds", "inputs", "phantom"},
    {"challenges", "recipe", "metrics", "heads"},
    {"artifacts", "provenance"},
    {"system"},
    {"errors", "spelling", "text_table"},
]
MAX_FUNCTION_LINES = 45
ALLOWED_IMPORTS = {
    "losses": {"losses"},
    "metrics": {"metrics"},
    "heads": {"heads"},
    "models": {"models", "heads", "recipe", "errors", "spelling"},
}


def subpackage_of(name: str) -> str:
    return name.split(".")[1]


def imports(path: Path) -> set[str]:
    """Return the subpackages that a module imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {subpackage_of(name) for name in names if name.startswith("cxrlt.")}


def level(part: str) -> int:
    (found,) = [number for number, parts in enumerate(LAYERS) if part in parts]
    return found


def test_a_function_fits_on_a_screen():
    long = [
        f"{path.name}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_level_or_those_below(path):
    relative = path.relative_to(PACKAGE)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        assert imports(path) <= {"results"}  # for cxrlt.load, when it is called
        return
    part = relative.parts[0].removesuffix(".py")
    assert all(level(other) >= level(part) for other in imports(path))
    if part in ALLOWED_IMPORTS:
        assert imports(path) <= ALLOWED_IMPORTS[part]
