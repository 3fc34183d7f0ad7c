"""What is asked of the fork server, and what it answers."""

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

ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1", "MPLBACKEND": "agg"}
"""One thread and one process: the same bits every time, and nothing that a fork could lose."""


@dataclass(frozen=True)
class Run:
    """A command, and what happens to it.

    SIGKILL comes `after` so many seconds, or just before the n-th change (`at`, from 0) of a file below
    `root`; with `tear` half of the file that is about to be put in place is gone then. With `fail`, an errno,
    that change is refused instead, and if it is ENOSPC all after it too. `file_size` is the most bytes of a
    file that the kernel takes. `modules` lets the server import what the command did.
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
class Ended:
    """How it ended: exit code (minus the signal's number if one did it), changes of files, what it said.

    `struck` is the change that a fault was waiting for: "rename folds/csv/folds.csv".
    """

    code: int
    seconds: float
    n_events: int
    struck: str
    output: str

    @property
    def is_sentence(self) -> bool:
        """Exit code 2 and one sentence, as for everything that a user can mend."""
        said = [line for line in self.output.splitlines() if line.startswith("cxrlt: ")]
        return self.code == 2 and len(said) == 1 and "Traceback" not in self.output


class ForkServer:
    """`run` commands in children of one process."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, here / "fork_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ALONE | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )
        assert self._process.stdout.readline() == "ready\n"

    def together(self, runs: Sequence[Run]) -> list[Ended]:
        """Side by side."""
        self._process.stdin.write(json.dumps([dataclasses.asdict(run) for run in runs]) + "\n")
        self._process.stdin.flush()
        return [Ended(**fields) for fields in json.loads(self._process.stdout.readline())]

    def run(self, args: Sequence[str], **fault: object) -> Ended:
        return self.together([Run(args, **fault)])[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
