"""Jobs, each a `cxrlt` command line, run side by side on the devices of this machine.

A job runs in a child process with its own log and device. Before a training does anything, its imports take
seven seconds of CPU time, so short jobs share one child (`per_process`): six that fail at once take 43 s
in six children and 15 s in two.
"""

import importlib
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
"""Begins the lines by which a child reports a finished job among those that its jobs print."""


@dataclass(frozen=True)
class Job:
    """One `cxrlt` command line, without the word `cxrlt`.

    What it prints is appended to `log`, or goes to the terminal if that is None.
    """

    label: str
    arguments: tuple[str, ...]
    log: Path | None = None

    @property
    def command(self) -> str:
        """Quoted for a shell."""
        return shlex.join(["cxrlt", *self.arguments])


def run_jobs(jobs: Sequence[Job], n_at_once: int, title: str = "", *, per_process: int = 1) -> dict[str, str]:
    """Run every job, and print a line when one ends. Returns the reasons of those that failed, by label.

    `n_at_once` of them run side by side, each on a GPU if there are any; a child runs up to `per_process` of
    them, one after another. With one at a time they run in this process instead, in order. A failed job does
    not stop the others. A signal is passed on to the children, which save what they have done.
    """
    progress = _Progress(len(jobs), title)
    if n_at_once == 1:
        for job in jobs:
            progress.finished(job, *_run_here(job))
        return progress.failures
    size = min(per_process, math.ceil(len(jobs) / n_at_once)) or 1
    groups = [jobs[first : first + size] for first in range(0, len(jobs), size)]
    with _children(progress, n_at_once) as children:
        Parallel(n_at_once, backend="threading")(delayed(children.run)(group) for group in groups)
    return progress.failures


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, or 0, 1, …"""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch  # here, as it takes seconds

    return [str(index) for index in range(torch.cuda.device_count())]


class _Progress:
    """Prints how each of `n_jobs` jobs ended, and keeps the reasons of those that failed."""

    def __init__(self, n_jobs: int, title: str) -> None:
        self.failures: dict[str, str] = {}
        self._n_jobs, self._title = n_jobs, title
        self._n_finished, self._began = 0, time.monotonic()
        self._lock = threading.Lock()

    def finished(self, job: Job, seconds: float, failure: str | None) -> None:
        with self._lock:
            self._n_finished += 1
            n_left = self._n_jobs - self._n_finished
            left = (time.monotonic() - self._began) / self._n_finished * n_left
            line = f"{self._title} {self._n_finished}/{self._n_jobs} {job.label}: ".lstrip()
            line += _duration(seconds) if failure is None else f"failed: {failure}"
            line += f"; {_duration(left)} left" if n_left else ""
            line += "" if failure is None else f"; the command: {job.command}"
            print(line, flush=True)
            if failure is not None:
                self.failures[job.label] = failure


class _Children:
    """The processes that run jobs now, and the devices that are free."""

    def __init__(self, progress: _Progress, n_at_once: int) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopping = False
        self._devices: queue.Queue[str | None] = queue.Queue()
        gpus = visible_gpus()
        for place in range(n_at_once):
            self._devices.put(gpus[place % len(gpus)] if gpus else None)
        self._n_threads = max((os.cpu_count() or 1) // n_at_once, 1)  # unless OMP_NUM_THREADS is set

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs in one child, or those behind one that took the child with it in another."""
        device = self._devices.get()
        while jobs and (child := self._start(jobs, device)):
            jobs = jobs[self._follow(child, jobs) :]
        self._devices.put(device)

    def stop(self) -> None:
        """Wait until the children have saved what they have done; a second signal does not wait."""
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
        """None when no more are to be started.

        In a process group of its own, which Ctrl-C does not reach: the child would be told twice. Its
        standard input ends when this process does, however that happens.
        """
        environment = {"OMP_NUM_THREADS": str(self._n_threads), **os.environ}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        words = json.dumps([[job.label, job.arguments, job.log and str(job.log)] for job in jobs])
        with self._lock:
            if self._stopping:
                return None
            child = subprocess.Popen(  # nosec B603  # ourselves
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
        """Read what the child prints until it ends. Returns how many of its jobs are over."""
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
                self._progress.finished(job, 0, _reason_of_death(child.returncode) + _see(job.log))
                n_over += 1
        return n_over


@contextmanager
def _children(progress: _Progress, n_at_once: int) -> Iterator[_Children]:
    """Children that do not outlive the block: what ends it early stops them."""
    children = _Children(progress, n_at_once)
    try:
        yield children
    except BaseException:
        children.stop()
        raise


def _reason_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, perhaps because memory ran out: fewer --workers need less"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}"


def _run_here(job: Job) -> tuple[float, str | None]:
    """Run the job in this process. Returns its seconds, and why it failed or None."""
    began, failure = time.monotonic(), None
    with _output_to(job.log):
        try:
            # By its name, as a child process knows it too: the command line stands above all other modules.
            importlib.import_module("cxrlt.cli").run_command([*job.arguments])
        except UserError as error:
            failure = str(error)
            if job.log:
                print(f"cxrlt: {failure}")
        except SystemExit as ended:
            failure = "the command line has an error" if ended.code else None
        except Exception as error:  # a bug must not cost the other jobs
            traceback.print_exc()
            failure = f"{type(error).__name__}: {error}"
    return time.monotonic() - began, failure and failure + _see(job.log)


@contextmanager
def _output_to(log: Path | None) -> Iterator[None]:
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    # Line by line, so that the log of a job that is killed is complete.
    with log.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def _see(log: Path | None) -> str:
    return f" (log: {log})" if log else ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _main(words: str) -> None:
    """In a child: run the jobs, and report each. SIGTERM stops it, as does the end of the parent process."""
    jobs = [Job(label, tuple(arguments), log and Path(log)) for label, arguments, log in json.loads(words)]
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        with stop_on_signals():
            for job in jobs:
                sys.argv = ["cxrlt", *job.arguments]  # by which locks say who holds them
                print(OUTCOME + json.dumps(_run_here(job)))
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def _stop_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe is closed
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is printed while saving
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main(sys.argv[1])
