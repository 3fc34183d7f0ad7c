import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cxrlt.errors import UserError
from cxrlt.experiments.workers import Task, Workers

pytestmark = pytest.mark.slow


def write(path: Path) -> None:
    print("a line for the log")
    path.touch()


def fail(error: Exception) -> None:
    raise error


def die() -> None:
    os._exit(9)


@pytest.mark.parametrize("n", [1, 2])
def test_one_failure_does_not_stop_the_others(n, tmp_path, capsys):
    tasks = [
        Task("wrong option", partial(fail, UserError("no such option")), tmp_path / "logs" / "wrong.log"),
        Task("our fault", partial(fail, ZeroDivisionError("by nought")), tmp_path / "logs" / "fault.log"),
        Task("fine", partial(write, tmp_path / "done"), tmp_path / "logs" / "fine.log"),
    ]
    with Workers(n) as workers:
        failures = workers.run(tasks, "train")
    assert set(failures) == {"wrong option", "our fault"}
    assert failures["wrong option"] == "no such option"
    assert "fault.log" in failures["our fault"]
    assert "Traceback" in (tmp_path / "logs" / "fault.log").read_text()
    assert (tmp_path / "done").is_file()
    out = capsys.readouterr().out
    assert "train 3/3" in out
    assert "a line for the log" not in out
    assert (tmp_path / "logs" / "fine.log").read_text() == "a line for the log\n"


def test_a_worker_that_dies_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="--workers"), Workers(2) as workers:
        workers.run([Task("dies", die, tmp_path / "log")], "train")


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_workers_end_with_their_parent(tmp_path):
    code = (
        "from functools import partial; from pathlib import Path; import time\n"
        "from cxrlt.experiments.workers import Task, Workers\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers:\n"
        "        tasks = [Task(str(i), partial(Path(f'started{i}').touch), Path('log')) for i in range(2)]\n"
        "        workers.run(tasks, 'x')\n"
        "        pids = [str(p.pid) for p in multiprocessing.active_children()]\n"
        "        Path('pids').write_text(' '.join(pids)); time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "pids").is_file() and (tmp_path / "pids").read_text())
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(is_running(pid) for pid in pids))


STOPPING = """
import sys, time
from functools import partial
from pathlib import Path
from cxrlt.system.signals import Stopped, put_off, stop_if_asked, stop_on_signals
from cxrlt.experiments.workers import Task, Workers

def step(name):
    with put_off():
        Path(f"begun-{name}").touch()
        try:
            while True:
                time.sleep(0.01)
                stop_if_asked()
        except Stopped:
            time.sleep(0.5)
            Path(f"saved-{name}").touch()
            raise

if __name__ == "__main__":
    try:
        with stop_on_signals(), Workers(2) as workers:
            workers.run([Task(str(i), partial(step, i), Path("log")) for i in range(5)], "x")
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGTERM, False), pytest.param(signal.SIGINT, True, marks=pytest.mark.full)]
)
def test_a_signal_lets_what_is_under_way_save_and_begins_nothing_else(tmp_path, number, group):
    (tmp_path / "parent.py").write_text(STOPPING)
    parent = subprocess.Popen(
        [sys.executable, "parent.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    (os.killpg if group else os.kill)(parent.pid, number)
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == 128 + number, out
    assert "Traceback" not in out
    begun, saved = ({path.name[6:] for path in tmp_path.glob(f"{kind}-*")} for kind in ("begun", "saved"))
    assert begun == saved == {"0", "1"}


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
