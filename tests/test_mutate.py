"""The mutants of tools/mutate.py, and its modules and test files."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "mutate.py"))
SOURCE = """
def scaled(value: int | None, *, factor: float = 1.5) -> float | None:
    return value * factor
"""


@pytest.mark.parametrize("name", TOOL["PACKAGES"])
def test_modules_and_test_files_are_where_the_tool_looks_for_them(name):
    package = TOOL["PACKAGES"][name]
    for module in package.modules.split():
        assert list((ROOT / "src" / "cxrlt").glob(f"{module}.py")), module
        files = TOOL["test_files_for"](name, f"{module}.py")
        assert files
        assert [file for file in files if not file.is_file()] == []


def test_a_test_named_after_the_module_comes_first_and_slow_ones_are_only_for_their_module():
    names = [
        [file.name for file in TOOL["test_files_for"]("ensembles", f"ensembles/{module}.py")]
        for module in ("context", "ensemble")
    ]
    assert names[0][0] == "test_context.py"
    assert "test_ensemble.py" not in names[0]
    assert names[1][-1] == "test_ensemble.py"


def test_numbers_and_operators_are_changed_and_annotations_and_signatures_are_not():
    pytest.importorskip("cosmic_ray")
    mutants = list(
        TOOL["mutants_of"]("folds", {"folds/make.py": SOURCE, "experiments/folds/make.py": SOURCE})
    )
    assert Counter((mutant.line, mutant.operator.partition("_")[0]) for mutant in mutants) == {
        (2, "NumberReplacer"): 2,
        (3, "ReplaceBinaryOperator"): 6,
    }
    changed = {TOOL["mutate_source"](mutant, {"folds/make.py": SOURCE}) for mutant in mutants}
    assert SOURCE.replace("value * factor", "value / factor") in changed
    assert len(changed) == 8
