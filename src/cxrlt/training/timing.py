"""How long trainings took, which experiments compare."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState

from cxrlt.system.atomic_files import write_json
from cxrlt.training.run_paths import RUN, unit_dir

SECONDS = "seconds.json"
WALL, PROCESSOR = "wall", "processor"


@contextmanager
def timed(run_dir: Path, folds: Sequence[int], force: bool) -> Iterator[None]:
    """Write beside the weights how long training took, if it was of one fold and not begun before.

    Without a GPU that is the processor's time, because other trainings slow the clock on the wall.
    """
    directory = unit_dir(run_dir, folds[0]) if len(folds) == 1 else None
    whole = directory is not None and (force or not (directory / RUN).is_file())
    clock = WALL if torch.accelerator.is_available() else PROCESSOR
    now = time.monotonic if clock == WALL else time.process_time
    began = now()
    yield
    if whole and PartialState().is_main_process:
        write_json(directory / SECONDS, {"seconds": now() - began, "clock": clock})
