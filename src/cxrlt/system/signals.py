"""Ctrl-C and SIGTERM, which a preempted (spot) machine sends: stop, at once or after what is under way."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_SECONDS = 2.0
"""Some send SIGTERM to a process and to all its group, as `timeout` does: within this time it is one."""


class Stopped(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells know it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@dataclass
class _Request:
    """The signal that has come while stopping is put off, and when a SIGTERM last came."""

    put_off: bool = False
    number: int | None = None
    sigterm_at: float = -math.inf


_request = _Request()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise `Stopped` in the main thread, at once unless `put_off`."""
    _request.sigterm_at = -math.inf
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Within it a signal is only noted, and stops at the next `stop_if_asked`; a second stops at once.

    Without another `stop_if_asked` it stops at the end of the block.
    """
    _request.put_off = True
    try:
        yield
        stop_if_asked()
    finally:
        _request.put_off, _request.number = False, None


def asked_to_stop() -> bool:
    """Whether a signal has come since stopping was put off."""
    return _request.number is not None


def stop_if_asked() -> None:
    """Raise `Stopped` if a signal has come since stopping was put off."""
    if _request.number is not None:
        raise Stopped(_request.number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        now = time.monotonic()
        if now - _request.sigterm_at < SAME_SECONDS:
            return
        _request.sigterm_at = now
    if not _request.put_off or _request.number is not None:
        raise Stopped(number)
    _request.number = number
