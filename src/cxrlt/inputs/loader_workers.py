"""Worker processes of a DataLoader: only their parent may stop them, and a dead worker is a clear error."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from cxrlt.errors import UserError
from cxrlt.system.signals import stop_if_requested

WORKER_DIED = re.compile(r"DataLoader worker|Pin memory thread")
"""Beginning of PyTorch's error message when a worker has died. It is raised anywhere in the main thread."""


def init_worker(worker: int = 0) -> None:
    """Initialise a worker: it ignores Ctrl-C, and SIGTERM unless its parent sends it.

    Ctrl-C and SIGTERM are often sent to all processes at once, but the parent has a step to finish first.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none: there every SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_of_parent, args=(os.getppid(),), daemon=True).start()


@contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Raise UserError if a worker dies in the block, or Stopped if a signal is the reason."""
    try:
        yield
    except RuntimeError as error:
        if not WORKER_DIED.match(str(error)):
            raise
        stop_if_requested()
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise UserError(
            f"A data loader worker has died ({reason}), perhaps out of memory. Finished work is kept. "
            "Free memory and run the same command again, or train with fewer --data.n-workers."
        ) from error


def _exit_on_sigterm_of_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
