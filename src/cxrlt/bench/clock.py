"""How things are timed: ways in turn, so that a machine's moods meet all alike, and commands as a whole."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cxrlt.errors import UserError


def race(
    *ways: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.process_time
) -> tuple[float, ...]:
    """Least seconds of each way in `repeats` rounds, in each of which they take turns.

    `time.process_time` counts the processor time of all threads of this process, which is what "per core"
    means; give `time.perf_counter` where waiting counts, or other processes do the work.
    """
    least = [float("inf")] * len(ways)
    for _ in range(repeats):
        for place, way in enumerate(ways):
            start = clock()
            way()
            least[place] = min(least[place], clock() - start)
    return tuple(least)


@dataclass(frozen=True)
class Usage:
    """Seconds from start to end, seconds of processor time, and the most memory held, in bytes."""

    seconds: float
    processor: float
    peak_bytes: int


def run_command(arguments: Sequence[str]) -> Usage:
    """Run `cxrlt` with these arguments in a process of its own, and say what it took.

    Raises UserError with the end of what it printed if it fails, and where the system does not tell.
    """
    if not hasattr(os, "wait4"):
        raise UserError("What a command takes is measured on Linux and macOS alone.")
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrlt", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"cxrlt {' '.join(arguments)} ended with {process.returncode}: {printed[-1000:]}")
    per_unit = 1 if sys.platform == "darwin" else 1024
    return Usage(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * per_unit)
