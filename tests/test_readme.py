"""Every command of the README is one the program knows; the demo's are run."""

import pkgutil
import re
import runpy
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cxrlt
from benchmarks.__main__ import parse as benchmark_flags
from cxrlt import cli
from cxrlt.challenges import challenge_names
from cxrlt.recipe import Recipe, load_recipe, recipe_names, save_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = README + (ROOT / "inputs" / "README.md").read_text(encoding="utf-8")
LAUNCHER = r"^torchrun .* -m (?=cxrlt)"


def commands(text: str) -> list[str]:
    """The lines of all bash blocks, and commands quoted in the text, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = [re.split(r"\s+# ", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def cxrlt_commands(text: str) -> list[list[str]]:
    """Arguments of every cxrlt command, `bash run.sh CHALLENGE …` included."""
    quoted = re.findall(r"`(cxrlt [a-z]+ [^`]*)`", text)  # a stage's bare name is no command to run
    lines = [re.sub(LAUNCHER, "", line) for line in [*commands(text), *quoted]]
    lines = [re.sub(r"^bash run\.sh (?!test|bench|audit)(?=[a-z])", "cxrlt run ", line) for line in lines]
    found = [shlex.split(line)[1:] for line in lines if line.startswith("cxrlt ")]
    placeholders = {"RECIPE", "CHALLENGE", "NAME", "…"}
    return [words for words in found if not placeholders & set(words)]


@pytest.fixture
def files_of_the_readme(tmp_path, monkeypatch):
    """The files its commands name, where they name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(# mine\.yaml.*?)```", README, flags=re.S)[1])
    save_recipe(Recipe(), tmp_path / "folds/cxrlt2023/mine/fold0/config.yaml")


@pytest.mark.parametrize("arguments", cxrlt_commands(GUIDES), ids=" ".join)
def test_every_command_is_understood(arguments, files_of_the_readme):
    command = cli.parse([word for word in arguments if word not in ("--help", "-h")])
    assert type(command) is cli.COMMANDS[arguments[0]]
    challenge = getattr(command, "challenge", "demo")
    assert challenge in challenge_names()
    for recipe in getattr(command, "recipes", None) or ():
        assert load_recipe(recipe)


BENCHMARKS = [line for line in commands(README) if line.startswith("bash run.sh bench")]


@pytest.mark.parametrize("line", BENCHMARKS)
def test_every_benchmark_is_understood(line):
    assert benchmark_flags(line.split()[3:])


def test_the_readme_shows_every_stage():
    assert {arguments[0] for arguments in cxrlt_commands(README)} == set(cli.COMMANDS)


def test_other_commands_are_ours_or_ordinary_tools():
    tools = ("cxrlt ", "torchrun ", "bash run.sh", "python3 -m pip ", "PIP_NO_INDEX=1 ", "pip install uv")
    tools += ("uv pip ", "bash .ci/run", "python tools/")
    assert [line for line in commands(README) if not line.startswith(tools)] == []


TOOL_COMMANDS = [line for line in commands(README) if line.startswith("python tools/")]


def test_the_readme_shows_every_tool():
    shown = {line.split()[1] for line in TOOL_COMMANDS}
    assert shown == {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")}


@pytest.mark.parametrize("line", TOOL_COMMANDS)
def test_a_tool_takes_what_the_readme_gives_it(line, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])  # the tools put the tests there
    program, *arguments = line.split()[1:]
    assert runpy.run_path(str(ROOT / program))["parse"](arguments)


def test_every_recipe_and_challenge_is_listed():
    for name in [*recipe_names(), *challenge_names()]:
        assert f"`{name}`" in README, name


def test_the_recipe_of_the_readme_is_one(files_of_the_readme):
    assert load_recipe("mine.yaml").data.size == 768


def test_files_the_readme_shows_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(cxrlt.__path__, "cxrlt.")]
    assert len(names) > 40
    for name in names:
        if name != "cxrlt.__main__":
            import_module(name)


def test_dependencies_are_all_explained():
    listed = re.search(r"\ndependencies = \[(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), flags=re.S)[1]
    for name in re.findall(r'"([a-z0-9-]+)', listed):
        assert re.search(rf"^\|.*\b{name}\b.*\|.*\|$", README, flags=re.M), name


def test_the_commands_of_the_demo_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRLT_ROOT", str(tmp_path))
    section = README.split("## The demo")[1].split("\n## ")[0]
    cli.main(["demo", "--patients", "45"])
    cli.main(["run", "demo", "--recipes", *quick_recipes(tmp_path)])
    ran = cxrlt_commands(section)
    assert ran
    for arguments in ran:
        cli.main(arguments)
    assert "mAP" in capsys.readouterr().out


def quick_recipes(folder: Path) -> list[str]:
    """The demo's recipes under their own names, for one epoch at 32 px."""
    paths = []
    for name in ("demo_resnet", "demo_darknet"):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(f"base: {name}\nschedule: {{epochs: 1}}\ndata: {{size: 32}}\n")
    return [str(path) for path in paths]
