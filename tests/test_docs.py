"""Every command in the documentation is understood, every link leads somewhere, and nothing is left out."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks.__main__ import PEERS
from benchmarks.__main__ import parse as parse_benchmarks
from benchmarks.peers import compare_peers
from contributing import add_examples
from cxrlt import cli
from cxrlt.challenges import challenge_names
from cxrlt.challenges.custom import CsvSpec
from cxrlt.challenges.folder import FolderSpec
from cxrlt.experiments.lists.tricks import TRICKS
from cxrlt.heads import head_names
from cxrlt.losses import loss_names
from cxrlt.metrics import METRICS
from cxrlt.recipe import Recipe, load_recipe, recipe_names, save_recipe
from doc_pages import ROOT, Command, Page, pages, shell_commands, slug

PAGES = pages()
COMMANDS = sorted({command for page in PAGES for command in page.commands})
ORDINARY = {"bash", "cat", "cd", "cp", "df", "echo", "export", "for", "git", "head", "kaggle", "ln", "ls"}
ORDINARY |= {
    "mkdir",
    "mv",
    "nvidia-smi",
    "pip",
    "pre-commit",
    "python",
    "python3",
    "rm",
    "source",
    "tar",
    "unzip",
}
ORDINARY |= {"uv", "wget"}
YAML_BLOCKS = [(page.name, block) for page in PAGES for block in page.blocks("yaml")]
RECIPE_BLOCKS = [block for _, block in YAML_BLOCKS if re.match(r"# (?!challenge)[\w-]+\.yaml", block)]


def cxrlt_arguments(command: Command) -> list[str] | None:
    """The arguments of `cxrlt`, if the command runs it in any way."""
    words = list(command.words)
    if words[:2] == ["bash", "run.sh"] and re.match(r"(?!(test|bench|audit)$)\w", "".join(words[2:3])):
        return ["run", *words[2:]]
    if words[0] in ("torchrun", "accelerate", "python", "python3") and "cxrlt" in words:
        return words[words.index("cxrlt") + 1 :]
    return words[1:] if words[0] == "cxrlt" and len(words) > 1 else None


STAGES = [(command, arguments) for command in COMMANDS if (arguments := cxrlt_arguments(command))]
TESTS = [command for command in COMMANDS if command.words[:3] == ("bash", "run.sh", "test")]
BENCHMARKS = [command for command in COMMANDS if command.words[:3] == ("bash", "run.sh", "bench")]
TOOLS = [command for command in COMMANDS if re.match(r"python tools/", " ".join(command.words))]


@pytest.fixture
def files_of_the_pages(tmp_path, monkeypatch):
    """The files that the pages show or write, below the current folder, and a run's saved recipe."""
    monkeypatch.chdir(tmp_path)
    shown = [(re.match(r"# (\S+\.yaml)", block)[1], block) for block in RECIPE_BLOCKS]
    for name, text in [*shown, *(file for page in PAGES for file in page.written_files)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    save_recipe(Recipe(), tmp_path / "folds/cxrlt2023/mine/fold0/config.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments"), STAGES, ids=str)
def test_the_program_understands_every_command(
    command, arguments, files_of_the_pages, add_module, tmp_path, monkeypatch
):
    if command.page == "CONTRIBUTING.md":
        add_examples(add_module, tmp_path, monkeypatch)
    if {"--help", "-h", "--version"} & {*arguments} or arguments[0].startswith("--tyro-"):
        arguments = [word for word in arguments if word not in ("--help", "-h")]
        if len(arguments) < 2 or arguments[0].startswith("--"):
            assert not arguments or arguments[0] in cli.COMMANDS or arguments[0].startswith("--tyro-")
            return
    parsed = cli.parse(arguments)
    assert type(parsed) is cli.COMMANDS[arguments[0]]
    assert getattr(parsed, "challenge", "demo") in challenge_names()
    for recipe in getattr(parsed, "recipes", None) or ():
        assert load_recipe(recipe)


@pytest.mark.parametrize("command", BENCHMARKS, ids=str)
def test_the_benchmarks_understand_every_command(command):
    flags = [word for word in command.words[3:] if word not in ("--help", "-h")]
    assert compare_peers.parse(flags[1:]) if flags[:1] == [PEERS] else parse_benchmarks(flags)


@pytest.mark.parametrize("command", TOOLS, ids=str)
def test_every_tool_understands_its_commands(command, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])  # some tools add the tests to it
    program, *arguments = command.words[1:]
    arguments = [word for word in arguments if word not in ("--help", "-h")]
    if arguments or len(command.words) == 2:
        assert runpy.run_path(str(ROOT / program))["parse"](arguments)


@pytest.mark.parametrize("command", TESTS, ids=str)
def test_the_files_of_every_test_command_exist(command):
    for word in command.words[3:]:
        path = word.split("::")[0]
        assert not path.startswith("tests/") or [*ROOT.glob(path)], word


def test_all_other_commands_are_ordinary_tools():
    checked = {command for command, _ in STAGES} | {*BENCHMARKS, *TOOLS, *TESTS}
    others = [command for command in COMMANDS if command not in checked]
    known = [
        *(("bash", "run.sh", word) for word in ("audit", "--help")),
        ("bash", "run.sh"),
        ("bash", ".ci/run"),
    ]
    unknown = [
        str(command)
        for command in others
        if command.words[0] not in ORDINARY
        or (command.words[0] == "bash" and not any(command.words[: len(each)] == each for each in known))
    ]
    assert [each for each in unknown if not each.endswith(": cxrlt")] == []


def test_every_stage_tool_and_kind_of_run_is_shown():
    assert {arguments[0] for _, arguments in STAGES if not arguments[0].startswith("-")} == set(cli.COMMANDS)
    shown = {command.words[1] for command in TOOLS}
    assert shown == {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")}
    calls = [" ".join(command.words) for command in COMMANDS]
    for call in ("bash run.sh", "bash run.sh test", "bash run.sh bench", "bash run.sh audit"):
        assert any(each.startswith(call) for each in calls), call


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/recipes.md", recipe_names()),
        ("docs/recipes.md", head_names()),
        ("docs/challenges.md", challenge_names()),
        ("docs/losses.md", loss_names()),
        ("docs/evaluation.md", METRICS),
        ("docs/experiments.md", TRICKS),
    ],
    ids=["recipes", "heads", "challenges", "losses", "metrics", "tricks"],
)
def test_everything_that_is_registered_is_listed(page, names):
    text = Page(ROOT / page).text
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(("page", "block"), YAML_BLOCKS, ids=lambda each: each.splitlines()[0])
def test_yaml_examples_are_valid(page, block, files_of_the_pages, tmp_path):
    keys = yaml.safe_load(block).keys()
    if block in RECIPE_BLOCKS or keys <= {"base", *Recipe.model_fields}:
        (tmp_path / "example.yaml").write_text(block, encoding="utf-8")
        assert load_recipe("example.yaml")
    elif {"train", "id"} <= keys:
        assert CsvSpec.model_validate(yaml.safe_load(block))
    else:
        assert FolderSpec.model_validate(yaml.safe_load(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_heading_that_exist(page):
    broken = []
    for link in page.links:
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.exists() or (anchor and anchor not in Page(target).headings):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page):
    named = re.findall(
        r"(?<!Write )`((?:src|tests|tools|benchmarks|docs|\.github)/[\w./-]+\.\w+)`", page.text
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_one_short_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached and path.suffix == ".md" and path.exists():
            reached.add(path)
            waiting += [(path.parent / link.partition("#")[0]).resolve() for link in Page(path).links]
    of_folders = ("folds/README.md", "submissions/README.md")  # short, and found where they are
    assert [page.name for page in PAGES if page.path not in reached and page.name not in of_folders] == []


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [*project["project"]["dependencies"]]
    needed += [each for group in project["dependency-groups"].values() for each in group]
    rows = re.findall(r"^\|(.*)\|$", Page(ROOT / "docs" / "architecture.md").text, flags=re.M)
    first = [row.split("|")[0].lower() for row in rows]
    names = {re.match(r"[\w-]+", each)[0].lower() for each in needed}
    assert sorted(name for name in names if not any(re.search(rf"\b{name}\b", each) for each in first)) == []


def test_the_linter_of_pre_commit_has_the_locked_version():
    locked = re.search(
        r"^ruff==\S+", (ROOT / "tests/requirements.txt").read_text(encoding="utf-8"), flags=re.M
    )[0]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    assert [hook["additional_dependencies"] for hook in hooks] == [[locked], [locked]]


def test_changelog_citation_and_package_have_one_version():
    version = re.search(
        r'__version__ = "(.+)"', (ROOT / "src/cxrlt/__init__.py").read_text(encoding="utf-8")
    )[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## \[(\S+)\] - (\S+)$", changelog, flags=re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert heading[1] == str(citation["version"]) == version
    assert heading[2] == str(citation["date-released"])


@pytest.mark.slow
def test_the_commands_of_the_demo_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRLT_ROOT", str(tmp_path))
    cli.main(["demo", "--patients", "45"])
    cli.main(["run", "demo", "--recipes", *one_epoch_recipes(tmp_path)])
    for arguments in demo_commands():
        cli.main(arguments)
    assert "mAP" in capsys.readouterr().out


def demo_commands() -> list[list[str]]:
    """The commands of the README and of the quickstart on the results of `bash run.sh`."""
    blocks = [*Page(ROOT / "README.md").blocks("bash"), *Page(ROOT / "docs" / "quickstart.md").blocks("bash")]
    lines = [Command("", words) for block in blocks for words in shell_commands(block)]
    stages = ("evaluate", "submit", "score", "validate", "calibrate")
    found = [
        words for line in lines if (words := cxrlt_arguments(line)) and words[0] in stages and "demo" in words
    ]
    assert found
    return found


def one_epoch_recipes(folder: Path) -> list[str]:
    """The demo's recipes under their own names, for one epoch at 32 px."""
    paths = []
    for name in ("demo_resnet", "demo_darknet"):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(f"base: {name}\nschedule: {{epochs: 1}}\ndata: {{size: 32}}\n")
    return [str(path) for path in paths]


def test_commands_are_found_in_scripts():
    script = "A=1 cxrlt run x \\\n  --quick > log  # comment\ncat > f <<'EOF'\ncxrlt no\nEOF\n"
    script += "cd y && cxrlt check RECIPE\n"
    assert shell_commands(script) == [
        ("cxrlt", "run", "x", "--quick"),
        ("cat",),
        ("cd", "y"),
        ("cxrlt", "check", "demo_resnet"),
    ]
    assert slug("Which `loss`? (A, B)") == "which-loss-a-b"
