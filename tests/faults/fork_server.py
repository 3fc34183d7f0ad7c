"""A process that has everything imported and runs commands in children forked from it, with a fault in each.

Reads a line of JSON per request, a list of `Run` fields to be run side by side, and answers a list of `Ended`
fields. It computes nothing itself: a child of a process with threads would be no fresh process.
"""

import errno
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from fault_client import Ended, Run

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
SIZED = {"open", "os.rename", "os.mkdir"}
"""What a full disk may refuse."""
IMPORTS = (
    "cxrlt.cli",
    "cxrlt.pipeline",
    "cxrlt.phantom.demo",
    "cxrlt.calibration.calibrate",
    "cxrlt.reports.score_table",
    "cxrlt.submissions.submit",
)


class Fault:
    """Counts what the process does to files below `run.root`, and strikes at the one it was told."""

    def __init__(self, run: Run, told: int) -> None:
        self.run, self.told = run, told
        self.n_seen, self.striking = 0, False

    def __call__(self, event: str, args: tuple) -> None:
        if self.striking or not (event == "open" or event in CHANGES):
            return
        path = args[0]
        if event == "open" and not args[2] & WRITING:
            return
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.run.root):
            return
        if self.run.fail is not None and event not in SIZED:
            return
        if event == "os.mkdir" and Path(path).is_dir():
            return
        self.n_seen += 1
        if self.run.at is not None and self.n_seen > self.run.at:
            self.striking = True
            if self.n_seen == self.run.at + 1:
                place = Path(path).relative_to(self.run.root).as_posix()
                os.write(self.told, f"{event.removeprefix('os.')} {place}".encode())
            self.strike(Path(path), event)

    def strike(self, path: Path, event: str) -> None:
        if self.run.tear and event == "open" and path.name.startswith(".") and path.is_file():
            os.truncate(path, path.stat().st_size // 2)
        if self.run.fail is None:
            os.kill(os.getpid(), signal.SIGKILL)
        self.striking = self.run.fail != errno.ENOSPC  # a full disk stays full
        raise OSError(self.run.fail, os.strerror(self.run.fail), str(path))


def child(run: Run, told: int, output: int) -> int:
    """The command, in this process from now on. Returns its exit code."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    fault = Fault(run, told)
    if run.root:
        sys.addaudithook(fault)
    if run.file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.file_size, run.file_size))
    code, known = 0, set(sys.modules)
    try:
        sys.argv = ["cxrlt", *run.args]
        sys.modules["cxrlt.cli"].main(list(run.args))
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(OSError):
        sys.stdout.flush()
    fault.striking = True
    os.write(
        told,
        f"\n{fault.n_seen}\n{json.dumps(sorted(set(sys.modules) - known)) if run.modules else ''}".encode(),
    )
    return code


def start(run: Run) -> tuple[int, int, int, float]:
    """pid, where it tells what struck, its output, when it began."""
    (told, tell), (output, put) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = child(run, tell, put)
        finally:
            os._exit(code if isinstance(code, int) else 1)
    os.close(tell)
    os.close(put)
    return pid, told, output, time.monotonic()


def finish(run: Run, pid: int, told: int, output: int, began: float) -> Ended:
    watched = os.pidfd_open(pid)
    limit = run.limit if run.after is None else run.after
    if not select.select([watched], [], [], max(0, began + limit - time.monotonic()))[0]:
        os.killpg(pid, signal.SIGKILL) if run.after is None else os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - began
    os.close(watched)
    struck, _, rest = _read(told).partition("\n")
    n_events, _, modules = rest.partition("\n")
    text = _read(output)
    if modules:
        for name in json.loads(modules):
            with suppress(Exception):
                importlib.import_module(name)
    return Ended(code, seconds, int(n_events or 0), struck, text)


def _read(descriptor: int) -> str:
    """What is in the pipe, whose other end an orphan may still hold."""
    os.set_blocking(descriptor, False)
    with os.fdopen(descriptor, "rb") as file:
        return (file.read() or b"").decode(errors="replace")


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        runs = [Run(**fields) for fields in json.loads(line)]
        started = [start(run) for run in runs]
        ended = [finish(run, *place) for run, place in zip(runs, started, strict=True)]
        print(json.dumps([vars(one) for one in ended]), flush=True)


if __name__ == "__main__":
    main()
