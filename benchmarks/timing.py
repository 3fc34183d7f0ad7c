"""Timing of functions, interleaved so that machine noise affects all equally, and of whole commands."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cxrlt.errors import UserError


def time_interleaved(
    *functions: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.process_time
) -> tuple[float, ...]:
    """Return the fastest time of each function in `repeats` rounds. Every round runs all functions once.

    `time.process_time` counts the CPU time of all threads of this process: the time "per core". Use
    `time.perf_counter` if waiting counts or if other processes do the work.
    """
    fastest = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = clock()
            function()
            fastest[index] = min(fastest[index], clock() - start)
    return tuple(fastest)


@dataclass(frozen=True)
class Usage:
    """Wall time and CPU time in seconds, and peak memory in bytes."""

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


def measure_command(arguments: Sequence[str]) -> Usage:
    """Run `cxrlt` with these arguments in a new process and return its resource usage.

    Raises UserError with the end of its output if it fails, and on Windows.
    """
    if find_spec("resource") is None:
        raise UserError("The resource usage of a command is measured on Linux and macOS only.")
    command = [sys.executable, str(Path(__file__).with_name("usage.py")), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results = json.loads(done.stdout)
    code, printed = results.pop("code"), results.pop("printed")
    if code:
        raise UserError(f"cxrlt {' '.join(arguments)} exited with code {code}: {printed}")
    return Usage(**results)
