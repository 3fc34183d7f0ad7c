"""Training times, which experiments compare."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState

from cxrlt.system.atomic_files import write_json
from cxrlt.training.run_paths import RUN, fold_dir

TIMING_FILE = "seconds.json"
WALL_CLOCK, CPU_CLOCK = "wall", "processor"


@contextmanager
def record_training_time(run_dir: Path, folds: Sequence[int], force: bool) -> Iterator[None]:
    """Context manager that writes the training time of one fold, if it was trained from its start.

    With a GPU it is wall time. Without one it is CPU time, because other trainings on the machine increase
    wall time.
    """
    directory = fold_dir(run_dir, folds[0]) if len(folds) == 1 else None
    from_start = directory is not None and (force or not (directory / RUN).is_file())
    clock = WALL_CLOCK if torch.accelerator.is_available() else CPU_CLOCK
    now = time.monotonic if clock == WALL_CLOCK else time.process_time
    began = now()
    yield
    if directory is not None and from_start and PartialState().is_main_process:
        write_json(directory / TIMING_FILE, {"seconds": now() - began, "clock": clock})
