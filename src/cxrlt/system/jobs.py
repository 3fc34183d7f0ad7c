"""Run jobs, each a `cxrlt` command line, in parallel on the devices of this machine.

A job runs in a child process with a separate log and device. The imports of a training take seven seconds of
CPU time, so several short jobs can share one child process (`per_process`): six jobs that fail immediately
took 43 s in six processes and 15 s in two.
"""

import importlib
import io
import json
import math
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from cxrlt.errors import UserError
from cxrlt.system.signals import Stopped, stop_on_signals

OUTCOME = "\x1e"
"""First character of the lines with which a child process reports a finished job."""


@dataclass(frozen=True)
class Job:
    """One `cxrlt` command line; `arguments` do not contain the word `cxrlt`.

    Its output is appended to `log`; if `log` is None it goes to the terminal.
    """

    label: str
    arguments: tuple[str, ...]
    log: Path | None = None

    @property
    def command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(["cxrlt", *self.arguments])


def run_jobs(
    jobs: Sequence[Job], n_parallel: int, title: str = "", *, per_process: int = 1
) -> dict[str, str]:
    """Run all jobs and print a line when a job ends. Return the reasons of the failed jobs, by label.

    `n_parallel` jobs run in parallel, each on one GPU if there are GPUs. A child process runs up to
    `per_process` jobs in sequence. With n_parallel = 1 the jobs run in this process, in order. A failed job
    does not stop the others. Signals are passed on to the child processes, which save their work first.
    """
    progress = _Progress(len(jobs), title)
    if n_parallel == 1:
        for job in jobs:
            progress.finished(job, *_run_here(job))
        return progress.failures
    size = min(per_process, math.ceil(len(jobs) / n_parallel)) or 1
    groups = [jobs[first : first + size] for first in range(0, len(jobs), size)]
    with _children(progress, n_parallel) as children:
        Parallel(n_parallel, backend="threading")(delayed(children.run)(group) for group in groups)
    return progress.failures


def visible_gpus() -> list[str]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES, or 0, 1, … if it is not set."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch  # imported here, as it takes seconds

    return [str(index) for index in range(torch.cuda.device_count())]


class _Progress:
    """Prints a line per finished job, and keeps the reasons of failed jobs."""

    def __init__(self, n_jobs: int, title: str) -> None:
        self.failures: dict[str, str] = {}
        self._n_jobs, self._title = n_jobs, title
        self._n_finished, self._start_time = 0, time.monotonic()
        self._lock = threading.Lock()

    def finished(self, job: Job, seconds: float, failure: str | None) -> None:
        with self._lock:
            self._n_finished += 1
            n_left = self._n_jobs - self._n_finished
            seconds_left = (time.monotonic() - self._start_time) / self._n_finished * n_left
            line = f"{self._title} {self._n_finished}/{self._n_jobs} {job.label}: ".lstrip()
            line += format_duration(seconds) if failure is None else f"failed: {failure}"
            line += f"; about {format_duration(seconds_left)} left" if n_left else ""
            line += "" if failure is None else f"; command: {job.command}"
            print(line, flush=True)
            if failure is not None:
                self.failures[job.label] = failure


class _Children:
    """The child processes that run jobs, and the free devices."""

    def __init__(self, progress: _Progress, n_parallel: int) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopping = False
        self._devices: queue.Queue[str | None] = queue.Queue()
        gpus = visible_gpus()
        for slot in range(n_parallel):
            self._devices.put(gpus[slot % len(gpus)] if gpus else None)
        self._n_threads = max((os.cpu_count() or 1) // n_parallel, 1)  # unless OMP_NUM_THREADS is set

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs in one child process. If a job kills it, run the remaining jobs in a new one."""
        device = self._devices.get()
        while jobs and (child := self._start(jobs, device)):
            jobs = jobs[self._follow(child, jobs) :]
        self._devices.put(device)

    def stop(self) -> None:
        """Stop the child processes and wait until they have saved their work; a second signal kills them."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        try:
            for child in running:
                child.terminate()
            for child in running:
                child.wait()
        except Stopped:
            for child in running:
                child.kill()
            raise

    def _start(self, jobs: Sequence[Job], device: str | None) -> subprocess.Popen | None:
        """Start a child process; return None if the jobs are being stopped.

        The child has a separate process group, which Ctrl-C does not reach; otherwise it would get the signal
        twice. Its standard input closes when this process ends for any reason.
        """
        environment = {"OMP_NUM_THREADS": str(self._n_threads), **os.environ}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        words = json.dumps([[job.label, job.arguments, job.log and str(job.log)] for job in jobs])
        with self._lock:
            if self._stopping:
                return None
            child = subprocess.Popen(  # nosec B603  # this package
                [sys.executable, "-m", "cxrlt.system.jobs", words],
                env=environment,
                process_group=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
            self._running.add(child)
            return child

    def _follow(self, child: subprocess.Popen, jobs: Sequence[Job]) -> int:
        """Print the output of the child until it ends. Return how many of its jobs have ended."""
        n_over = 0
        with child:
            for line in child.stdout or ():
                printed, outcome_follows, outcome = line.partition(OUTCOME)
                if printed:
                    print(printed, end="", flush=True)
                if outcome_follows:
                    self._progress.finished(jobs[n_over], *json.loads(outcome))
                    n_over += 1
        with self._lock:
            self._running.discard(child)
            if n_over < len(jobs) and not self._stopping:
                job = jobs[n_over]
                self._progress.finished(job, 0, _reason_of_death(child.returncode) + _log_hint(job.log))
                n_over += 1
        return n_over


@contextmanager
def _children(progress: _Progress, n_parallel: int) -> Iterator[_Children]:
    """Give child processes that are stopped if the block ends early."""
    children = _Children(progress, n_parallel)
    try:
        yield children
    except BaseException:
        children.stop()
        raise


def _reason_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, perhaps out of memory. Fewer --workers need less memory"
    how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}"


def _run_here(job: Job) -> tuple[float, str | None]:
    """Run the job in this process. Return its seconds, and the reason if it failed."""
    start_time, failure = time.monotonic(), None
    with _output_to(job.log):
        try:
            # imported by name, as the command line imports this module
            importlib.import_module("cxrlt.cli").run_command([*job.arguments])
        except UserError as error:
            failure = str(error)
            if job.log:
                print(f"cxrlt: {failure}")
        except SystemExit as ended:
            failure = "the command line has an error" if ended.code else None
        except Exception as error:  # a bug must not stop the other jobs
            traceback.print_exc()
            failure = f"{type(error).__name__}: {error}"
    return time.monotonic() - start_time, failure and failure + _log_hint(job.log)


@contextmanager
def _output_to(log: Path | None) -> Iterator[None]:
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    # Line-buffered, so that the log of a killed job is complete.
    with log.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def _log_hint(log: Path | None) -> str:
    return f" (log: {log})" if log else ""


def format_duration(seconds: float) -> str:
    """Return the seconds as a text such as "45 s" or "1 h 05 min"."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _main(words: str) -> None:
    """Run the jobs in a child process and report each. SIGTERM or the end of the parent process stops it."""
    jobs = [Job(label, tuple(arguments), log and Path(log)) for label, arguments, log in json.loads(words)]
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        with stop_on_signals():
            for job in jobs:
                sys.argv = ["cxrlt", *job.arguments]  # locks show it in "is in use by"
                print(OUTCOME + json.dumps(_run_here(job)))
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def _stop_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe is closed
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for output while saving
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main(sys.argv[1])
