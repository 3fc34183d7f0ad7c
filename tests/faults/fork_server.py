"""A server that has imported everything and runs each command, with its fault, in a forked process.

A request is a line of JSON: a list of the fields of `Run`, which run in parallel. The answer is a list of the
fields of `RunResult`. The server computes nothing itself, as a process with threads must not be forked.
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

from fault_client import Run, RunResult

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
NEEDS_SPACE = {"open", "os.rename", "os.mkdir"}
"""Events that need disk space."""
IMPORTS = (
    "cxrlt.cli",
    "cxrlt.pipeline",
    "cxrlt.phantom.demo",
    "cxrlt.calibration.calibrate",
    "cxrlt.reports.score_table",
    "cxrlt.submissions.submit",
)


class Fault:
    """Counts the changes of files below `run.root`, and causes the fault at the requested one."""

    def __init__(self, run: Run, report_fd: int) -> None:
        self.run, self.report_fd = run, report_fd
        self.n_seen, self.is_off = 0, False

    def __call__(self, event: str, args: tuple) -> None:
        if self.is_off or not (event == "open" or event in CHANGES):
            return
        path = args[0]
        if event == "open" and not args[2] & WRITING:
            return
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.run.root):
            return
        if self.run.fail is not None and event not in NEEDS_SPACE:
            return
        if event == "os.mkdir" and Path(path).is_dir():
            return
        self.n_seen += 1
        if self.run.at is not None and self.n_seen > self.run.at:
            self.is_off = True
            if self.n_seen == self.run.at + 1:
                place = Path(path).relative_to(self.run.root).as_posix()
                os.write(self.report_fd, f"{event.removeprefix('os.')} {place}".encode())
            self.trigger(Path(path), event)

    def trigger(self, path: Path, event: str) -> None:
        if self.run.tear and event == "open" and path.name.startswith(".") and path.is_file():
            os.truncate(path, path.stat().st_size // 2)
        if self.run.fail is None:
            os.kill(os.getpid(), signal.SIGKILL)
        self.is_off = self.run.fail != errno.ENOSPC  # a full disk stays full
        raise OSError(self.run.fail, os.strerror(self.run.fail), str(path))


def child(run: Run, report_fd: int, output: int) -> int:
    """Run the command in this process. Return its exit code."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    fault = Fault(run, report_fd)
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
    fault.is_off = True
    os.write(
        report_fd,
        f"\n{fault.n_seen}\n{json.dumps(sorted(set(sys.modules) - known)) if run.modules else ''}".encode(),
    )
    return code


def start(run: Run) -> tuple[int, int, int, float]:
    """Start a command. Return its pid, the pipes of its report and its output, and the start time."""
    (report_fd, report_end), (output, output_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = child(run, report_end, output_end)
        finally:
            os._exit(code if isinstance(code, int) else 1)
    os.close(report_end)
    os.close(output_end)
    return pid, report_fd, output, time.monotonic()


def finish(run: Run, pid: int, report_fd: int, output: int, began: float) -> RunResult:
    watched = os.pidfd_open(pid)
    limit = run.limit if run.after is None else run.after
    if not select.select([watched], [], [], max(0, began + limit - time.monotonic()))[0]:
        os.killpg(pid, signal.SIGKILL) if run.after is None else os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - began
    os.close(watched)
    fault_event, _, rest = _read(report_fd).partition("\n")
    n_events, _, modules = rest.partition("\n")
    text = _read(output)
    if modules:
        for name in json.loads(modules):
            with suppress(Exception):
                importlib.import_module(name)
    return RunResult(code, seconds, int(n_events or 0), fault_event, text)


def _read(descriptor: int) -> str:
    """Read the content of a pipe without waiting: an orphan process may still hold its other end."""
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
