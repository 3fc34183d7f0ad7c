"""Tests of run.sh. A small script replaces Python where a real one would install gigabytes."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cxrlt.challenges import challenge_names

REPOSITORY = Path(__file__).parents[1]
LOCKS = ("requirements.txt", "tests/requirements.txt", "tests/audit-requirements.txt")
BASH = shutil.which("bash") or "/bin/bash"

PYTHON = """#!{bash}
# Replaces python: the variables set how version, venv and pip behave; every other call is written to $CALLS.
case "$*" in
    *version_info*) exit "${{TOO_OLD:-0}}" ;;
    *ensurepip*) exit "${{NO_VENV:-0}}" ;;
    --version) echo "Python 3.9.2" ;;
    "-m venv"*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    "-m pip --version") ;;
    *pip_audit*json*)
        printf '%s\\n' "$*" "$(<"${{@: -1}}")" >> "$CALLS"
        echo "${{KNOWN_VULNERABILITY-\\"id\\"}}"
        exit 1 ;;
    *pip_audit*) printf '%s\\n' "$*" "$(<"${{@: -1}}")" >> "$CALLS"; exit "${{VULNERABLE:-0}}" ;;
    "-m pip"*) printf '%s\\n' "$*" >> "$CALLS"; exit "${{NO_NETWORK:-0}}" ;;
    *) printf '%s|' "$CXRLT_ROOT" "$PYTHONPATH" "$PWD" "$@"; echo ;;
esac
"""


class Clone:
    """A copy of run.sh in a folder with a space in its name, and a PATH with only the given programs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.bin.mkdir()
        self.calls.touch()
        (self.root / "tests").mkdir(parents=True)
        for name in ("run.sh", "pyproject.toml", *LOCKS):
            shutil.copy(REPOSITORY / name, self.root / name)
        challenges = Path("src", "cxrlt", "challenges")
        shutil.copytree(REPOSITORY / challenges, self.root / challenges)
        for tool in ("cat", "cp", "dirname", "mkdir", "sed", "sort"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def add_python(self, name: str = "python3") -> None:
        (self.bin / name).write_text(PYTHON.format(bash=BASH))
        (self.bin / name).chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`bash "…/a clone/run.sh" arguments`, from another folder, in a bare environment."""
        environment = {"PATH": str(self.bin), "CALLS": str(self.calls), **variables}
        return subprocess.run(
            [BASH, str(self.root / "run.sh"), *arguments],
            capture_output=True,
            text=True,
            cwd=self.bin,
            env=environment,
            check=False,
        )

    def installations(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_help_names_every_challenge_and_every_command(clone):
    result = clone.run("--help")
    assert result.returncode == 0
    named = re.search(r"one of: (.*)\.", result.stdout).group(1).split()
    assert named == challenge_names()
    words = (
        "run.sh test",
        "run.sh bench",
        "run.sh audit",
        "CXRLT_PYTHON",
        "PIP_FIND_LINKS",
        "OPTIONS",
    )
    assert all(word in result.stdout for word in words)


def test_a_challenge_is_known_as_soon_as_a_module_of_the_package_registers_it(clone):
    clone.add_python()
    mine = clone.root / "src" / "cxrlt" / "challenges" / "mine.py"
    mine.write_text('@challenge("mine", from_inputs=True)\ndef mine(name, inputs_dir): ...\n')
    assert clone.run("mine").stdout.endswith("|-m|cxrlt|run|mine|\n")
    mine.unlink()
    assert "'mine' is not a challenge" in clone.run("mine").stderr


@pytest.mark.parametrize("word", ["nih", "--quick", "demo2", "cxrlt", "", "demo cxrlt2023"])
def test_an_unknown_challenge_is_an_error_before_anything_is_installed(clone, word):
    clone.add_python()
    result = clone.run(word)
    assert result.returncode == 2
    assert f"'{word}' is not a challenge" in result.stderr
    assert "nih14" in result.stderr
    assert not (clone.root / ".venv").exists()


def test_without_arguments_it_sets_up_and_runs_the_demo(clone):
    clone.add_python()
    result = clone.run()
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last == f"{clone.root}|{clone.root}/src|{clone.bin}|-m|cxrlt|run|demo|"
    assert [call.startswith("-m pip install") for call in clone.installations()] == [True, True]
    assert f"--require-hashes -r {clone.root}/requirements.txt" in clone.installations()[0]


def test_options_reach_the_command_as_they_were_given(clone):
    clone.add_python()
    result = clone.run("nihlt", "--images", "my x-rays", "--quick", CXRLT_ROOT="/elsewhere")
    assert result.stdout.splitlines()[-1].startswith("/elsewhere|")
    assert result.stdout.endswith("|-m|cxrlt|run|nihlt|--images|my x-rays|--quick|\n")


def test_nothing_is_installed_twice_unless_the_lock_changes(clone):
    clone.add_python()
    clone.run()
    clone.calls.write_text("")
    clone.run()
    assert clone.installations() == []
    with (clone.root / "requirements.txt").open("a") as file:
        file.write("# another\n")
    clone.run()
    assert len(clone.installations()) == 2


def test_an_installation_that_failed_is_done_again_and_its_error_names_the_folder_of_wheels(clone):
    clone.add_python()
    failed = clone.run(NO_NETWORK="1")
    assert failed.returncode == 2
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=" in failed.stderr
    assert "pip download" in failed.stderr
    clone.calls.write_text("")
    assert clone.run().returncode == 0
    assert len(clone.installations()) == 2


def test_an_environment_without_a_working_python_is_made_again(clone):
    clone.add_python()
    (clone.root / ".venv" / "bin").mkdir(parents=True)
    assert clone.run().returncode == 0
    assert (clone.root / ".venv" / "bin" / "python").is_file()


@pytest.mark.parametrize(
    ("tier", "marks"), [([], "not full"), (["--quick"], "not slow and not full"), (["--full"], "")]
)
def test_run_sh_test_installs_the_test_tools_and_runs_linters_and_one_tier_of_the_tests(clone, tier, marks):
    clone.add_python()
    result = clone.run("test", *tier, "-k", "two words")
    assert result.returncode == 0, result.stderr
    assert any(f"-r {clone.root}/tests/requirements.txt" in call for call in clone.installations())
    ruff, form, mypy, bandit, tests = (line.split("|", 2)[2] for line in result.stdout.splitlines()[-5:])
    assert ruff == f"{clone.root}|-m|ruff|check|.|"
    assert form == f"{clone.root}|-m|ruff|format|--check|.|"
    assert mypy == f"{clone.root}|-m|mypy|"
    assert bandit == f"{clone.root}|-m|bandit|--quiet|--recursive|--configfile|pyproject.toml|src|"
    assert tests.startswith(f"{clone.root}|-m|pytest|--numprocesses|")
    assert tests.endswith(f"|-m|{marks}|-k|two words|")


def test_run_sh_bench_runs_the_benchmarks_without_the_test_tools(clone):
    clone.add_python()
    result = clone.run("bench", "loader", "--json", "two words.json")
    assert result.returncode == 0, result.stderr
    assert not any("tests/requirements.txt" in call for call in clone.installations())
    last = result.stdout.splitlines()[-1].split("|", 3)
    assert last[1] == f"{clone.root}:{clone.root}/src"
    assert last[3] == "-m|benchmarks|loader|--json|two words.json|"


def test_run_sh_audit_checks_the_code_and_all_locked_packages_of_every_system(clone):
    clone.add_python()
    result = clone.run("audit", "-s", "osv")
    assert result.returncode == 0, result.stderr
    assert "|-m|bandit|--quiet|--recursive|--configfile|pyproject.toml|src|" in result.stdout
    installed, *asked = clone.installations()
    assert f"-r {clone.root}/tests/audit-requirements.txt" in installed
    calls = [line for line in asked if line.startswith("-m pip_audit ")]
    assert all(call.startswith("-m pip_audit --strict ") and " -s osv " in call for call in calls)
    assert asked[:2] == [calls[0], "pyyaml==5.3"]
    locked = "".join((REPOSITORY / name).read_text() for name in LOCKS)
    pins = re.findall(r"^[a-z0-9-]+==[\w.]+", locked, re.M)
    assert sorted(set(asked[2:]) - set(calls)) == sorted(set(pins))
    assert len([pin for pin in asked if pin.startswith("numpy==")]) == locked.count("\nnumpy==") > 1
    assert "colorama==" in str(asked)  # of another operating system


@pytest.mark.parametrize(
    "answer", ['[{"vulns": []}]', "ERROR: not found on PyPI: pyyaml (5.3)", "Traceback\nNo route", ""]
)
def test_an_audit_without_advisories_is_a_failure(clone, answer):
    clone.add_python()
    result = clone.run("audit", KNOWN_VULNERABILITY=answer)
    assert result.returncode == 2
    assert "the advisories could not be looked up" in result.stderr
    assert answer.rpartition("\n")[2] in result.stderr and "Traceback" not in result.stderr
    assert not [call for call in clone.installations() if "pip_audit" in call and "json" not in call]


def test_an_audit_that_finds_a_vulnerability_or_cannot_look_a_package_up_is_a_failure(clone):
    clone.add_python()
    result = clone.run("audit", VULNERABLE="1")
    assert result.returncode == 2
    assert "has a known vulnerability, or could not be looked up" in result.stderr


def test_without_python_the_error_says_which_one_is_needed(clone):
    result = clone.run()
    assert result.returncode == 2
    assert "Python 3.11 or newer" in result.stderr
    assert "no python3" in result.stderr


def test_an_old_python_is_an_error_that_names_its_version(clone):
    clone.add_python()
    result = clone.run(TOO_OLD="1")
    assert result.returncode == 2
    assert "Python 3.11 or newer is required, but Python 3.9.2 was found" in result.stderr


def test_a_newer_python_is_found_beside_an_old_one(clone):
    clone.add_python("python3.12")
    (clone.bin / "python3").write_text(f"#!{BASH}\nexit 1\n")
    (clone.bin / "python3").chmod(0o755)
    result = clone.run()
    assert result.returncode == 0, result.stderr
    assert "with python3.12" in result.stdout


def test_a_python_without_venv_is_an_error_that_names_the_missing_package(clone):
    clone.add_python()
    result = clone.run(NO_VENV="1")
    assert result.returncode == 2
    assert "python3-venv" in result.stderr
    assert not (clone.root / ".venv").exists()


def test_an_existing_python_with_all_packages_is_used_unchanged(clone):
    package = clone.root / "src" / "cxrlt"
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nprint(sys.executable, sys.argv[1:])\n")
    result = clone.run("demo", "--quick", CXRLT_PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{sys.executable} ['run', 'demo', '--quick']\n"
    assert not (clone.root / ".venv").exists()


def test_an_existing_python_that_lacks_packages_is_an_error_that_names_them(clone):
    with (clone.root / "pyproject.toml").open("r+") as file:
        text = file.read().replace('"tqdm>=', '"no-such-package>=1", "numpy>=999", "tqdm>=')
        file.seek(0)
        file.write(text)
    result = clone.run(CXRLT_PYTHON=sys.executable)
    assert result.returncode == 2
    assert "-m pip install 'no-such-package>=1' 'numpy>=999'\n" in result.stderr


def test_an_existing_python_that_is_not_there_is_an_error(clone):
    result = clone.run(CXRLT_PYTHON="/no/such/python")
    assert result.returncode == 2
    assert "CXRLT_PYTHON=/no/such/python does not exist" in result.stderr


def test_a_tilde_in_the_path_of_a_python_is_the_home_directory(clone, tmp_path):
    result = clone.run(CXRLT_PYTHON="~/no/such/python", HOME=str(tmp_path))
    assert result.returncode == 2
    assert f"CXRLT_PYTHON={tmp_path}/no/such/python does not exist" in result.stderr


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_everything_and_names_no_address_or_folder(name):
    lines = (REPOSITORY / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert pins
    assert all(re.match(r"[a-z0-9-]+==[\w.]+ (; .* )?\\$", pin) for pin in pins)
    after = [lines[lines.index(pin) + 1] for pin in pins]
    assert all(re.match(r"    --hash=sha256:[0-9a-f]{64}", line) for line in after)
    assert not [line for line in lines if re.search(r"://|file:|--index|--find-links|--extra| /\w", line)]


def test_the_lock_holds_every_dependency_of_the_project():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    for name, wanted in (
        ("requirements.txt", project["project"]["dependencies"]),
        ("tests/requirements.txt", project["dependency-groups"]["test"]),
        ("tests/audit-requirements.txt", project["dependency-groups"]["audit"]),
    ):
        pinned = set(re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / name).read_text(), re.M))
        assert {re.match(r"[\w-]+", requirement).group().lower() for requirement in wanted} <= pinned


def test_the_scripts_can_be_executed():
    assert all(os.access(REPOSITORY / name, os.X_OK) for name in ("run.sh", ".ci/run"))
