"""How things are timed: ways interleaved, so that machine noise affects all equally; commands as a whole."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

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
    if find_spec("resource") is None:
        raise UserError("What a command takes is measured on Linux and macOS alone.")
    command = [sys.executable, str(Path(__file__).with_name("usage.py")), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    code, printed = found.pop("code"), found.pop("printed")
    if code:
        raise UserError(f"cxrlt {' '.join(arguments)} ended with {code}: {printed}")
    return Usage(**found)
