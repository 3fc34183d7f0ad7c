"""Handle Ctrl-C and SIGTERM (sent to a preempted machine): stop immediately or at the next safe point."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_SECONDS = 2.0
"""A second SIGTERM within this time is ignored: `timeout` sends it to the process and to its group."""


class Stopped(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@dataclass
class _Request:
    """The signal received while signals are deferred, and the time of the last SIGTERM."""

    is_deferred: bool = False
    number: int | None = None
    sigterm_at: float = -math.inf


_request = _Request()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """In this context, SIGINT and SIGTERM raise `Stopped` in the main thread, immediately or as deferred."""
    _request.sigterm_at = -math.inf
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """In this context, a signal takes effect at the next `stop_if_requested`, or at the end of the block.

    A second signal raises `Stopped` immediately.
    """
    _request.is_deferred = True
    try:
        yield
        stop_if_requested()
    finally:
        _request.is_deferred, _request.number = False, None


def stop_requested() -> bool:
    """Return whether a deferred signal has been received."""
    return _request.number is not None


def stop_if_requested() -> None:
    """Raise `Stopped` if a deferred signal has been received."""
    if _request.number is not None:
        raise Stopped(_request.number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        now = time.monotonic()
        if now - _request.sigterm_at < SAME_SECONDS:
            return
        _request.sigterm_at = now
    if not _request.is_deferred or _request.number is not None:
        raise Stopped(number)
    _request.number = number
