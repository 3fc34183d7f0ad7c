"""Work shared among processes, whose end is a sentence where one of them was killed."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from joblib import Parallel
from joblib.externals.loky.process_executor import BrokenProcessPool

from cxrlt.errors import UserError

IDLE_SECONDS = 10


def in_processes(
    jobs: Iterable[tuple], workers: int, work: str, *, in_order: bool = False
) -> Iterator[object]:
    """The results of joblib's delayed `jobs`, as they come unless `in_order`. `work` is what they do: a verb.

    Raises UserError if a process is killed, as one is where memory is short.
    """
    kind = "generator" if in_order else "generator_unordered"
    # idle processes leave soon, also when this one is killed
    parallel = Parallel(workers, return_as=kind, idle_worker_timeout=IDLE_SECONDS)
    try:
        with _ctrl_c_held_back():
            results = parallel(_without_ctrl_c(jobs))  # starts the processes
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            f"One of the {workers} processes that {work} was killed, perhaps for want of memory. What was "
            "finished before is kept. Run the same command again, with fewer of them if need be: "
            "LOKY_MAX_CPU_COUNT=1 in front of it."
        ) from error


def _without_ctrl_c(jobs: Iterable[tuple]) -> Iterator[tuple]:
    parent = os.getpid()
    for function, args, options in jobs:
        yield _ignore_ctrl_c, (parent, function, *args), options


def _ignore_ctrl_c(parent: int, function: Callable[..., object], *args: object, **options: object) -> object:
    if os.getpid() != parent and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return function(*args, **options)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Processes that start within it do not see Ctrl-C before their first job; all are sent it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
