"""Client of the fork server: commands with a fault, and their results."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
    "MPLBACKEND": "agg",
}
"""One thread and one process: results are bit-identical, and a fork loses no threads."""


@dataclass(frozen=True)
class Run:
    """A command and its fault.

    The process gets SIGKILL `after` this number of seconds, or before change number `at` (from 0) of a file
    below `root`. With `tear`, a temporary file that is opened in this change is truncated to half. With
    `fail` (an errno) the change fails instead; with ENOSPC all later changes fail too. `file_size` is the
    kernel's limit of a file's size. With `modules`, the server imports the modules that the command imported.
    """

    args: Sequence[str]
    root: str = ""
    after: float | None = None
    at: int | None = None
    tear: bool = False
    fail: int | None = None
    file_size: int | None = None
    modules: bool = False
    limit: float = 120.0


@dataclass(frozen=True)
class RunResult:
    """The result: exit code (negative for a signal), number of file changes, output.

    `fault_event` is the change at which the fault came, for example "rename folds/csv/folds.csv".
    """

    code: int
    seconds: float
    n_events: int
    fault_event: str
    output: str

    @property
    def is_user_error(self) -> bool:
        """Whether it is an error for the user: exit code 2 and one message, without a traceback."""
        messages = [line for line in self.output.splitlines() if line.startswith("cxrlt: ")]
        return self.code == 2 and len(messages) == 1 and "Traceback" not in self.output


class ForkServer:
    """Runs commands in processes forked from one server process."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, here / "fork_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | SINGLE_THREAD | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )
        assert self._process.stdout.readline() == "ready\n"

    def run_parallel(self, runs: Sequence[Run]) -> list[RunResult]:
        """Run commands in parallel."""
        self._process.stdin.write(json.dumps([dataclasses.asdict(run) for run in runs]) + "\n")
        self._process.stdin.flush()
        return [RunResult(**fields) for fields in json.loads(self._process.stdout.readline())]

    def run(self, args: Sequence[str], **fault: object) -> RunResult:
        return self.run_parallel([Run(args, **fault)])[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
