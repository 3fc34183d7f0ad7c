"""Run joblib jobs in processes; a killed process becomes a clear error."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from joblib import Parallel
from joblib.externals.loky.process_executor import BrokenProcessPool

from cxrlt.errors import UserError

IDLE_SECONDS = 10
"""Seconds after which idle worker processes exit."""

Result = TypeVar("Result")


def map_in_processes(
    jobs: Iterable[tuple[Callable[..., Result], tuple, dict]],
    workers: int,
    verb: str,
    *,
    ordered: bool = False,
) -> Iterator[Result]:
    """Yield the results of joblib's delayed `jobs` as they finish, or in the order of the jobs if `ordered`.

    `verb` says in error messages what the processes do. Raises UserError if a process is killed, for example
    by the out-of-memory killer.
    """
    kind = "generator" if ordered else "generator_unordered"
    # idle processes exit soon, also if this process is killed
    parallel = Parallel(workers, return_as=kind, idle_worker_timeout=IDLE_SECONDS)
    try:
        with _ctrl_c_blocked():
            results = parallel(_ignoring_ctrl_c(jobs))  # starts the processes
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            f"One of the {workers} processes that {verb} was killed, perhaps out of memory. Finished work is "
            "kept. Run the same command again; for fewer processes, put LOKY_MAX_CPU_COUNT=1 in front of it."
        ) from error


def _ignoring_ctrl_c(jobs: Iterable[tuple]) -> Iterator[tuple]:
    parent = os.getpid()
    for function, args, options in jobs:
        yield _call_ignoring_ctrl_c, (parent, function, *args), options


def _call_ignoring_ctrl_c(
    parent: int, function: Callable[..., Result], *args: object, **options: object
) -> Result:
    if os.getpid() != parent and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return function(*args, **options)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C in processes started in this context until their first job.

    A terminal sends Ctrl-C to all processes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
