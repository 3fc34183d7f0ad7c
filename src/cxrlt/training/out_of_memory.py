"""Recovery from CUDA out of memory: compute the same result with fewer rows at a time."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import Inputs, move_to_device
from cxrlt.system.signals import stop_if_requested

FIXES = (
    "Use a smaller --data.size or --model.backbone, with a new --name, or stop other programs that use the "
    "device."
)


class BatchNormStats:
    """A copy of BatchNorm's running statistics: a forward pass changes them even if it runs out of memory."""

    def __init__(self, model: nn.Module) -> None:
        parts = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        found = [buffer for part in parts for buffer in part.buffers(recurse=False)]
        dtypes = {buffer.dtype for buffer in found}  # one kernel copies all buffers of a dtype
        self._current = [[buffer for buffer in found if buffer.dtype == dtype] for dtype in dtypes]
        self._saved = [[buffer.clone() for buffer in same] for same in self._current]

    def save(self) -> None:
        """Copy the current statistics."""
        for current, saved in zip(self._current, self._saved, strict=True):
            torch._foreach_copy_(saved, current)

    def restore(self) -> None:
        """Set the statistics back to the last saved ones."""
        for current, saved in zip(self._current, self._saved, strict=True):
            torch._foreach_copy_(current, saved)


def halve_rows(n_rows: int, label: str) -> int:
    """Free cached memory and return half of `n_rows`. Raises UserError for one row."""
    if n_rows <= 1:
        raise UserError(f"{label}: out of memory with a single row. {FIXES}")
    clear_device_cache(garbage_collection=True)
    return n_rows // 2


def run_in_chunks(
    batches: Iterable[tuple[Inputs, Tensor, Tensor]],
    compute: Callable[[Inputs], Tensor],
    device: torch.device,
    label: str,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (`compute`(inputs), row numbers) for every batch of a loader, both with n_rows in front.

    After an out-of-memory error this and later batches are computed in chunks of half the size. Raises
    UserError if one row does not fit.
    """
    chunk_size = sys.maxsize
    for inputs, _, rows in batches:
        stop_if_requested()
        while True:
            with suppress(torch.OutOfMemoryError):  # a kept traceback would keep the tensors
                done = _compute_chunks(inputs, compute, device, chunk_size)
                break
            n_rows = min(chunk_size, len(rows))
            chunk_size = halve_rows(n_rows, label)
            print(f"{label}: out of memory with {n_rows} rows at once: using chunks of {chunk_size} rows")
        yield done[0] if len(done) == 1 else torch.cat(done), rows


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Context manager: raises UserError for an out-of-memory error that a smaller batch cannot avoid."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"The device is out of memory ({reason}). {FIXES}") from error


def _compute_chunks(
    inputs: Inputs, compute: Callable[[Inputs], Tensor], device: torch.device, chunk_size: int
) -> list[Tensor]:
    n_rows = len(next(iter(inputs.values())))
    chunks = [slice(start, start + chunk_size) for start in range(0, n_rows, chunk_size)]
    parts = [{name: values[chunk] for name, values in inputs.items()} for chunk in chunks]
    return [compute(move_to_device(part, device)) for part in parts]
