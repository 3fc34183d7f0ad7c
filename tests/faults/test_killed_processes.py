"""What happens to the processes of a cache or demo build, and to those they leave behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Harness
from joblib import delayed
from tiny_stages import after, contents, left_over

from cxrlt.errors import UserError
from cxrlt.phantom.demo import make_demo
from cxrlt.system.processes import in_processes

pytestmark = pytest.mark.slow

N_PATIENTS = 30
"""BootstrapSamples for some seconds by two processes."""


def start(root: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cxrlt", "demo", "--patients", str(N_PATIENTS), "--root", str(root)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LOKY_MAX_CPU_COUNT": "2"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def pictures(root: Path) -> list[Path]:
    return list((root / "inputs").glob(".demo.*.partial/files/*/*/*/*.jpg"))


def drawing_processes(process: subprocess.Popen) -> list[int]:
    """Those that loky started."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "loky"], capture_output=True, text=True)
    trackers = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "resource_tracker"], capture_output=True, text=True
    )
    return sorted({int(pid) for pid in found.stdout.split()} - {int(pid) for pid in trackers.stdout.split()})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The contents of the demo that nothing happened to."""
    root = tmp_path_factory.mktemp("whole")
    make_demo(root / "inputs" / "demo", N_PATIENTS)
    return contents(root)


@pytest.mark.full
def test_a_drawing_process_that_is_killed_is_a_sentence_and_the_demo_is_made_anew(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(pictures(tmp_path)) > 5)
    os.kill(drawing_processes(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "processes that draw was killed" in output and "Traceback" not in output
    assert start(tmp_path).wait(timeout=60) == 0
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_a_signal_to_all_processes_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(pictures(tmp_path)) > 5)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    assert left_over(tmp_path) == []


@pytest.mark.full
def test_processes_that_outlive_a_killed_build_do_not_touch_the_next(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(pictures(tmp_path)) > 5)
    process.kill()
    assert start(tmp_path).wait(timeout=60) == 0  # which takes longer than what they had still to draw
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert contents(tmp_path) == whole


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_a_sentence_that_says_how_to_go_on() -> None:
    with pytest.raises(UserError, match=r"2 processes that decode was killed.*LOKY_MAX_CPU_COUNT=1"):
        list(in_processes((delayed(_die)(k) for k in range(5)), 2, "decode"))


def test_a_finished_demo_is_rid_of_what_a_killed_process_left(found: Harness) -> None:
    root = after(found.before, "demo")
    found.put_back("folds")
    left = found.root / "inputs" / ".demo.0a1b2c3d.partial" / "files"
    left.mkdir(parents=True)
    assert found.run("demo").code == 0
    assert contents(found.root) == contents(root)
    shutil.rmtree(found.root / "inputs" / "demo")
    assert found.run("demo").code == 0
    assert contents(found.root) == contents(root)
