"""Many tasks in a few processes: quiet, each with a log of its own, and none stopped by another's failure."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from cxrlt.errors import UserError
from cxrlt.system.jobs import visible_gpus
from cxrlt.system.signals import SIGNALS, Stopped, stop_on_signals


@dataclass(frozen=True)
class Task:
    """Something to do that can be sent to another process; what it prints goes to the end of `log`."""

    label: str
    run: Callable[[], object]
    log: Path


@dataclass(frozen=True)
class Job:
    """A `cxrlt` command; what it prints goes to the end of `log`."""

    label: str
    arguments: tuple[str, ...]
    log: Path


def run_jobs(jobs: Sequence[Job], n: int, title: str) -> dict[str, str]:
    """Do every job, `n` at a time. Returns what failed: label -> reason."""
    with Workers(n) as workers:
        return workers.run(
            [Task(job.label, partial(_command, job.arguments), job.log) for job in jobs], title
        )


def _command(arguments: Sequence[str]) -> None:
    import_module("cxrlt.cli").parse(list(arguments)).run()


@dataclass(frozen=True)
class _Outcome:
    label: str
    seconds: float
    failure: str | None


class Workers:
    """`n` processes that stay for all tasks of a `with` block; for n = 1 there is none but this one.

    What ends the block early, as a signal does, stops their tasks, which save what they have done first.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool: ProcessPoolExecutor | None = None
        self._context = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
        self._ending = self._context.Event()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        processes = multiprocessing.active_children() if kind is not None else []
        if processes:
            self._ending.set()
        for process in processes:
            process.terminate()
        try:
            self._pool.shutdown(cancel_futures=True)
        except Stopped:  # a second signal
            for process in processes:
                process.kill()
            raise

    def run(self, tasks: Sequence[Task], title: str) -> dict[str, str]:
        """Do every task, with a line for each. Returns what failed: label -> reason.

        Raises UserError if a worker dies.
        """
        failures: dict[str, str] = {}
        began = time.monotonic()
        done = (_do(task) for task in tasks) if self.n == 1 else self._in_processes(tasks)
        for number, outcome in enumerate(done, start=1):
            left = (time.monotonic() - began) / number * (len(tasks) - number)
            result = f"failed: {outcome.failure}" if outcome.failure else _duration(outcome.seconds)
            line = f"{title} {number}/{len(tasks)} {outcome.label}: {result}"
            print(f"{line}; {_duration(left)} left" if number < len(tasks) else line, flush=True)
            if outcome.failure:
                failures[outcome.label] = outcome.failure
        return failures

    def _in_processes(self, tasks: Sequence[Task]) -> Iterator[_Outcome]:
        if tasks and self._pool is None:
            self._pool = self._start_pool()
        try:
            for future in as_completed([self._pool.submit(_do_unless_ending, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process died, perhaps for want of memory: the same command goes on, "
                "with fewer --workers if it happens again."
            ) from error

    def _start_pool(self) -> ProcessPoolExecutor:
        devices: Queue[str] = self._context.Queue()
        gpus = visible_gpus()
        for place in range(self.n):
            devices.put(gpus[place % len(gpus)] if gpus else "")
        n_threads = max((os.cpu_count() or 1) // self.n, 1)
        return ProcessPoolExecutor(self.n, self._context, _start, (devices, n_threads, self._ending))


_ending: Event | None = None
"""In a worker: whether its parent is ending."""


def _start(devices: "Queue[str]", n_threads: int, ending: Event) -> None:
    """A worker's first act, before it touches a GPU: it takes a device, and ends with its parent."""
    global _ending
    _ending = ending
    if gpu := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(n_threads)
    for number in SIGNALS:  # without a task there is nothing to stop: the parent ends its workers
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_unless_ending(task: Task) -> _Outcome:
    """In a worker: do it if the parent is not ending; SIGTERM, by which the parent tells, stops it."""
    with stop_on_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and tells its workers
        if _ending is None or _ending.is_set():
            raise Stopped(signal.SIGTERM)
        return _do(task)


def _do(task: Task) -> _Outcome:
    began, failure = time.monotonic(), None
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            task.run()
        except UserError as error:
            failure = str(error)
        except Exception as error:  # a fault of ours must not cost the other runs
            traceback.print_exc()
            failure = f"{type(error).__name__}: {error} (more in {task.log})"
    return _Outcome(task.label, time.monotonic() - began, failure)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
