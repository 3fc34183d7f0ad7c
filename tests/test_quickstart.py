"""The commands of the quickstart, run as a reader would: pasted into bash, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doc_pages import ROOT, Page

QUICKSTART = Page(ROOT / "docs" / "quickstart.md")
BASH = shutil.which("bash") or "/bin/bash"


@pytest.fixture
def paste(tmp_path):
    """A function that runs a script in `tmp_path`, where `cxrlt` and `python` are those of the tests."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, command in (("python", f"{sys.executable}"), ("cxrlt", f"{sys.executable} -m cxrlt")):
        (programs / name).write_text(f'#!{BASH}\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CXRLT_ROOT"}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(ROOT / "src")

    def run(script: str) -> None:
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    return run


def section_script(start: str, end: str = r"\Z") -> str:
    """The bash blocks of a section, up to the text that `end` matches."""
    text = re.split(end, QUICKSTART.section(start))[0]
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M))


@pytest.mark.full
def test_the_sections_on_own_files_end_with_the_submissions_that_they_name(paste, tmp_path: Path):
    script = section_script("2. Your own CSV file", end=r"\*\*Step 5")
    named = set(re.findall(r"example/submissions/\S+\.csv", script))
    assert named
    paste(script)
    assert [name for name in named if not (tmp_path / name).is_file()] == []
    paste(section_script("3. Your own folders"))
    assert [*(tmp_path / "example" / "submissions" / "folder").glob("*/submission.csv")]


def test_the_completion_of_bash_is_a_script_that_bash_accepts(paste, tmp_path: Path):
    lines = section_script("Shell completion").splitlines()
    (write,) = [line for line in lines if "--tyro-write-completion bash" in line]
    path = write.split()[-1].replace("~", str(tmp_path))
    paste("\n".join([*(line for line in lines if line.startswith("mkdir")), write, f"bash -n {path}"]))
    assert "cxrlt" in Path(path).read_text()
