"""Jobs are `cxrlt` commands; a fake command line makes them print, fail, die or wait."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import cxrlt
from cxrlt.system.jobs import Job, run_jobs
from user_errors import assert_mentions

pytestmark = pytest.mark.slow

FAKE_CLI = '''
import os, sys, time
from pathlib import Path
from cxrlt.errors import UserError
from cxrlt.system.signals import Stopped, defer_signals, stop_if_requested

HERE = Path(__file__).parent.parent

def run_command(arguments):
    """Commands: print TEXT, refuse TEXT, misspelt, help, bug, die CODE, device NAME, wait NAME."""
    kind, what = arguments[0], arguments[-1]
    assert sys.argv[1:] == arguments, "so that a lock names the command that holds it"
    if kind == "print":
        print(what, end="" if what.endswith("unfinished") else "\\n")
    elif kind == "refuse":
        raise UserError(what)
    elif kind == "misspelt":
        sys.exit(2)
    elif kind == "help":
        sys.exit(0)
    elif kind == "bug":
        1 / 0
    elif kind == "die":
        print("dying")
        os._exit(int(what)) if int(what) > 0 else os.kill(os.getpid(), -int(what))
    elif kind == "device":
        device, threads = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
        (HERE / what).write_text(f"{device} {threads} {os.getpid()} {time.time()} ")
        time.sleep(0.3)
        with (HERE / what).open("a") as file:
            file.write(str(time.time()))
    elif kind == "wait":
        with defer_signals():
            begun = HERE / f"begun-{what}"
            begun.with_suffix(".new").write_text(f"{os.getpid()} {os.getpgid(0)}")
            begun.with_suffix(".new").rename(begun)
            try:
                while True:
                    time.sleep(0.01)
                    stop_if_requested()
            except Stopped:
                time.sleep(float(os.environ.get("SAVING_SECONDS", "0.3")))
                print("saving", flush=True)
                (HERE / f"saved-{what}").touch()
                raise
'''


@pytest.fixture
def fake_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder to which jobs write; child processes import its `cxrlt` with a fake command line."""
    package = tmp_path / "cxrlt"
    package.mkdir()
    for name in ("__init__.py", "errors.py", "system"):
        (package / name).symlink_to(Path(cxrlt.__file__).parent / name)
    (package / "cli.py").write_text(FAKE_CLI)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return tmp_path


def job(*arguments: str, log: Path | None = None) -> Job:
    return Job(" ".join(arguments), arguments, log)


@pytest.mark.parametrize("per_process", [1, 3])
def test_a_failed_job_prints_reason_and_command_and_others_continue(fake_cli, capfd, per_process):
    logs = fake_cli / "logs"
    jobs = [
        job("refuse", "no such option", log=logs / "refused.log"),
        job("bug", "x y", log=logs / "bug.log"),
        job("print", "a line for the log", log=logs / "fine.log"),
        job("misspelt"),
        job("help"),
        job("print", "a line for the terminal"),
        job("print", "unfinished"),
    ]
    failures = run_jobs(jobs, 2, "train", per_process=per_process)
    assert set(failures) == {"refuse no such option", "bug x y", "misspelt"}
    assert_mentions(failures["refuse no such option"], "no such option", str(logs / "refused.log"))
    assert (logs / "refused.log").read_text() == "cxrlt: no such option\n"
    assert_mentions(failures["bug x y"], "ZeroDivisionError", str(logs / "bug.log"))
    assert "Traceback" in (logs / "bug.log").read_text()
    assert (logs / "fine.log").read_text() == "a line for the log\n"
    out = capfd.readouterr().out.splitlines()
    assert "a line for the terminal" in out
    assert "a line for the log" not in out
    (failed,) = [line for line in out if "bug x y" in line]
    assert_mentions(failed, "ZeroDivisionError", str(logs / "bug.log"), "cxrlt bug 'x y'")
    ends = [line.removeprefix("unfinished") for line in out if "train " in line]
    assert [line.split()[1] for line in ends] == [f"{number}/7" for number in range(1, 8)]
    assert ["left" in line for line in ends] == [True] * 6 + [False]


def test_one_at_a_time_runs_in_this_process_and_in_order(tmp_path, capsys):
    jobs = [
        Job("unknown", ("foldz",), tmp_path / "unknown.log"),
        Job("refused", ("folds", "csv", "--root", str(tmp_path)), tmp_path / "refused.log"),
    ]
    failures = run_jobs(jobs, 1, "prepare")
    assert list(failures) == ["unknown", "refused"]
    assert_mentions(failures["unknown"], "command line", "unknown.log")
    assert "foldz" in (tmp_path / "unknown.log").read_text()
    assert str(tmp_path) in failures["refused"]
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["prepare 1/2 unknown", "prepare 2/2 refused"]


@pytest.mark.parametrize(("code", "words"), [("7", "exit code 7"), ("-9", "killed")])
def test_of_jobs_that_share_a_process_one_that_kills_it_is_named_and_the_rest_run(fake_cli, code, words):
    log = fake_cli / "died.log"
    group = [
        job("device", "first"),
        job("die", code, log=log),
        job("device", "third"),
        job("device", "fourth"),
    ]
    failures = run_jobs([*group, *(job("print", text) for text in "abc")], 2, per_process=9)
    assert list(failures) == [f"die {code}"]
    assert_mentions(failures[f"die {code}"], words, log)
    assert log.read_text() == "dying\n"
    assert {"first", "third", "fourth"} <= {path.name for path in fake_cli.iterdir()}


def test_parallel_jobs_have_separate_devices_and_share_cores(fake_cli, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = [f"job{number}" for number in range(6)]
    assert run_jobs([job("device", name) for name in names], 2) == {}
    runs = [(fake_cli / name).read_text().split() for name in names]
    assert {device for device, *_ in runs} == {"0", "1"}
    assert {int(threads) for _, threads, *_ in runs} == {max(os.cpu_count() // 2, 1)}
    assert len({process for _, _, process, *_ in runs}) == 6
    for device in ("0", "1"):
        spans = sorted((float(begun), float(ended)) for on, _, _, begun, ended in runs if on == device)
        assert all(ended <= begun for (_, ended), (begun, _) in pairwise(spans))


def test_jobs_of_a_group_share_a_process(fake_cli):
    names = [f"job{number}" for number in range(6)]
    run_jobs([job("device", name) for name in names], 2, per_process=3)
    processes = [(fake_cli / name).read_text().split()[2] for name in names]
    assert len(set(processes[:3])) == len(set(processes[3:])) == 1
    assert processes[0] != processes[3]


PARENT = """
import sys
from cxrlt.system.jobs import Job, run_jobs
from cxrlt.system.signals import Stopped, stop_on_signals

try:
    with stop_on_signals():
        run_jobs([Job(str(i), ("wait", str(i))) for i in range(5)], 2, "x")
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.fixture
def waiting(fake_cli: Path) -> Iterator[subprocess.Popen]:
    """Return a process in a new group, with two of five jobs running and waiting for a signal."""
    (fake_cli / "parent.py").write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, "parent.py"],
        cwd=fake_cli,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(list(fake_cli.glob("begun-?"))) == 2)
        yield process
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_jobs_save_and_starts_no_other(fake_cli, waiting, number):
    """Ctrl-C reaches the whole group; `timeout` sends SIGTERM to the process first and then to its group."""
    if number == signal.SIGTERM:
        waiting.send_signal(number)
        time.sleep(0.1)
    os.killpg(waiting.pid, number)
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + number, out
    assert out == "saving\nsaving\n"
    assert output_folder(fake_cli, "begun") == output_folder(fake_cli, "saved") == {"0", "1"}
    groups = {path.read_text().split()[1] for path in fake_cli.glob("begun-?")}
    assert str(waiting.pid) not in groups  # Ctrl-C would reach the jobs twice


def test_a_second_signal_kills_the_jobs(fake_cli, monkeypatch, request):
    monkeypatch.setenv("SAVING_SECONDS", "60")
    waiting = request.getfixturevalue("waiting")
    waiting.send_signal(signal.SIGINT)
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert output_folder(fake_cli, "saved") == set()
    wait_for(lambda: not any(map(is_running, processes(fake_cli))))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_jobs_save_and_end_when_their_parent_is_killed(fake_cli, waiting):
    waiting.kill()
    waiting.communicate()
    wait_for(lambda: not any(map(is_running, processes(fake_cli))))
    assert output_folder(fake_cli, "begun") == output_folder(fake_cli, "saved") == {"0", "1"}


def output_folder(folder: Path, kind: str) -> set[str]:
    return {path.name.rpartition("-")[2] for path in folder.glob(f"{kind}-?")}


def processes(folder: Path) -> list[int]:
    return [int(path.read_text().split()[0]) for path in folder.glob("begun-?")]


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
