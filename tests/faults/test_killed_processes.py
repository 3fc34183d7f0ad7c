"""Killed processes of a cache or demo build, and their worker processes."""

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
from tiny_stages import file_hashes, leftover_files, root_after

from cxrlt.errors import UserError
from cxrlt.phantom.demo import make_demo
from cxrlt.system.processes import map_in_processes

pytestmark = pytest.mark.slow

N_PATIENTS = 30
"""Two processes draw these for some seconds."""


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


def drawn_images(root: Path) -> list[Path]:
    return list((root / "inputs").glob(".demo.*.partial/files/*/*/*/*.jpg"))


def drawing_processes(process: subprocess.Popen) -> list[int]:
    """Return the worker processes that loky started."""
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "loky"], capture_output=True, text=True)
    trackers = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "resource_tracker"], capture_output=True, text=True
    )
    return sorted(
        {int(pid) for pid in children.stdout.split()} - {int(pid) for pid in trackers.stdout.split()}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the file hashes of a demo that was not interrupted."""
    root = tmp_path_factory.mktemp("whole")
    make_demo(root / "inputs" / "demo", N_PATIENTS)
    return file_hashes(root)


@pytest.mark.full
def test_a_killed_worker_is_a_user_error_and_the_demo_can_be_made_again(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(drawn_images(tmp_path)) > 5)
    os.kill(drawing_processes(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "processes that draw was killed" in output and "Traceback" not in output
    assert start(tmp_path).wait(timeout=60) == 0
    assert file_hashes(tmp_path) == whole


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_a_signal_to_all_processes_stops_the_build_and_leaves_no_files(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(drawn_images(tmp_path)) > 5)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    assert leftover_files(tmp_path) == []


@pytest.mark.full
def test_workers_of_a_killed_build_do_not_change_the_next_build(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(drawn_images(tmp_path)) > 5)
    process.kill()
    assert start(tmp_path).wait(timeout=60) == 0  # takes longer than the remaining work of the old workers
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert file_hashes(tmp_path) == whole


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_a_user_error_with_the_fix() -> None:
    with pytest.raises(UserError, match=r"2 processes that decode was killed.*LOKY_MAX_CPU_COUNT=1"):
        list(map_in_processes((delayed(_die)(k) for k in range(5)), 2, "decode"))


def test_a_finished_demo_removes_files_of_a_killed_process(harness: Harness) -> None:
    root = root_after(harness.before, "demo")
    harness.restore("folds")
    left = harness.root / "inputs" / ".demo.0a1b2c3d.partial" / "files"
    left.mkdir(parents=True)
    assert harness.run("demo").code == 0
    assert file_hashes(harness.root) == file_hashes(root)
    shutil.rmtree(harness.root / "inputs" / "demo")
    assert harness.run("demo").code == 0
    assert file_hashes(harness.root) == file_hashes(root)
