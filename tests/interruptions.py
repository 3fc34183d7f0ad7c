"""Interrupt and observe trainings and predictions with PyTorch hooks, independent of the loop's code."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from cxrlt.models.backbone import Inputs, XRayModel
from cxrlt.system.signals import Stopped, stop_on_signals


class CrashError(Exception):
    """Stops a training like a kill: nothing catches it and nothing is saved."""


@contextmanager
def on_each_update(do: Callable[[int, Optimizer], object], *, after: bool = False) -> Iterator[None]:
    """Call `do(number, optimizer)` before (or `after`) every optimizer step, counted from 1."""
    calls: list[Optimizer] = []

    def hook(optimizer: Optimizer, *_: object) -> None:
        calls.append(optimizer)
        do(len(calls), optimizer)

    register = register_optimizer_step_post_hook if after else register_optimizer_step_pre_hook
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def on_update(wanted: int, do: Callable[[], object]) -> Iterator[None]:
    """Call `do` once, in update number `wanted` (from 1), after backward and before the optimizer step."""
    with on_each_update(lambda number, _: do() if number == wanted else None):
        yield


@contextmanager
def on_each_forward(do: Callable[[XRayModel, Inputs, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `do(model, inputs, logits)` after every forward pass; it may return other logits."""

    def hook(module: object, inputs: tuple[Inputs, ...], logits: Tensor) -> Tensor | None:
        return do(module, inputs[0], logits) if isinstance(module, XRayModel) else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def raise_crash(*_: object) -> None:
    raise CrashError


@contextmanager
def crash_in_update(wanted: int) -> Iterator[None]:
    """Crash the training in the block in update number `wanted` (from 1), before its optimizer step."""
    with pytest.raises(CrashError), on_update(wanted, raise_crash):
        yield


def raise_signal(number: signal.Signals = signal.SIGTERM) -> None:
    signal.raise_signal(number)


@contextmanager
def stop_in_update(wanted: int) -> Iterator[None]:
    """Stop the training in the block by a signal in update number `wanted` (from 1); it saves and stops."""
    with pytest.raises(Stopped), stop_on_signals(), on_update(wanted, raise_signal):
        yield


def n_rows(inputs: Inputs) -> int:
    """Return the number of rows in a forward pass."""
    return len(next(iter(inputs.values())))
