"""The worker processes of a loader: which process may end them, and what their death means."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from cxrlt.errors import UserError
from cxrlt.system.signals import stop_if_asked

DEATH = re.compile(r"DataLoader worker|Pin memory thread")
"""How torch's message begins where a worker has died; it comes wherever the main thread happens to be."""


def init_worker(worker: int = 0) -> None:
    """A worker's first act. Only the process that reads through it may end it.

    Ctrl-C and SIGTERM are often sent to all processes at once, and that one has a step to finish.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # where there is none, as on macOS, anybody's SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says, args=(os.getppid(),), daemon=True).start()


@contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Raises UserError where a worker dies within the block; Stopped where a signal is the reason."""
    try:
        yield
    except RuntimeError as error:
        if not DEATH.match(str(error)):
            raise
        stop_if_asked()
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise UserError(
            f"A process that reads images has ended ({reason}), perhaps for lack of memory. What was "
            "finished before is kept: run the same command again, after freeing memory, or train with "
            "fewer --data.n-workers."
        ) from error


def _end_when_the_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
