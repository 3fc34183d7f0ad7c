"""Where a device's memory is full, the same is computed of fewer rows at a time."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import Inputs, on_device
from cxrlt.system.signals import stop_if_asked

FIXES = (
    "Lower --data.size, take a smaller --model.backbone, each under a --name of its own, or end what else "
    "uses the device."
)


class RunningStatistics:
    """BatchNorm's, which a forward pass changes even if the device's memory is full before its end."""

    def __init__(self, model: nn.Module) -> None:
        parts = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        found = [buffer for part in parts for buffer in part.buffers(recurse=False)]
        kinds = {buffer.dtype for buffer in found}  # one kernel copies all of a kind
        self._now = [[buffer for buffer in found if buffer.dtype == kind] for kind in kinds]
        self._kept = [[buffer.clone() for buffer in same] for same in self._now]

    def keep(self) -> None:
        """Note them as they are, to which `restore` goes back."""
        for now, kept in zip(self._now, self._kept, strict=True):
            torch._foreach_copy_(kept, now)

    def restore(self) -> None:
        for now, kept in zip(self._now, self._kept, strict=True):
            torch._foreach_copy_(now, kept)


def half_of(n_rows: int, owner: str) -> int:
    """How many to try where `n_rows` are too many, with the memory freed. Raises UserError for one row."""
    if n_rows <= 1:
        raise UserError(f"{owner}: the device's memory does not hold a single row. {FIXES}")
    clear_device_cache(garbage_collection=True)
    return n_rows // 2


def run_in_chunks(
    batches: Iterable[tuple[Inputs, Tensor, Tensor]],
    compute: Callable[[Inputs], Tensor],
    device: torch.device,
    label: str,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(what `compute` makes of its rows, the rows) of every batch of a loader, by rows alone.

    From the first batch that the device's memory does not hold it is half as many rows at a time.
    """
    largest = sys.maxsize
    for inputs, _, rows in batches:
        stop_if_asked()
        while True:
            with suppress(torch.OutOfMemoryError):  # its traceback would hold on to what was computed
                done = _chunks(inputs, compute, device, largest)
                break
            too_many = min(largest, len(rows))
            largest = half_of(too_many, label)
            reason = f"the device's memory does not hold {too_many} rows at once"
            print(f"{label}: {reason}: {largest} at a time now")
        yield done[0] if len(done) == 1 else torch.cat(done), rows


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Raises UserError where the device's memory is full and no smaller batch would help."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"The device's memory is full ({reason}). {FIXES}") from error


def _chunks(
    inputs: Inputs, compute: Callable[[Inputs], Tensor], device: torch.device, largest: int
) -> list[Tensor]:
    n_rows = len(next(iter(inputs.values())))
    chunks = [slice(first, first + largest) for first in range(0, n_rows, largest)]
    parts = [{name: values[chunk] for name, values in inputs.items()} for chunk in chunks]
    return [compute(on_device(part, device)) for part in parts]
