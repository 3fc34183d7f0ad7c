"""Interrupt and watch any training or prediction, however its loop is written, through hooks of PyTorch."""

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


class DiedError(Exception):
    """What ends a training like a kill: it is caught nowhere, and nothing is saved because of it."""


@contextmanager
def each_update(do: Callable[[int, Optimizer], object], *, after: bool = False) -> Iterator[None]:
    """Call `do(number, optimizer)` before every step of an optimiser, or `after` it, counted from 1."""
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
def in_update(wanted: int, do: Callable[[], object]) -> Iterator[None]:
    """Call `do` once: in update number `wanted` (from 1), when its gradient is there and its step is not."""
    with each_update(lambda number, _: do() if number == wanted else None):
        yield


@contextmanager
def each_pass(do: Callable[[XRayModel, Inputs, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `do(model, inputs, logits)` after every pass of rows through a model; it may return others."""

    def hook(module: object, inputs: tuple[Inputs, ...], logits: Tensor) -> Tensor | None:
        return do(module, inputs[0], logits) if isinstance(module, XRayModel) else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def die(*_: object) -> None:
    raise DiedError


@contextmanager
def dying_in_update(wanted: int) -> Iterator[None]:
    """The training within dies in update number `wanted` (from 1): the one before it was the last."""
    with pytest.raises(DiedError), in_update(wanted, die):
        yield


def send(number: signal.Signals = signal.SIGTERM) -> None:
    signal.raise_signal(number)


@contextmanager
def stopping_in_update(wanted: int) -> Iterator[None]:
    """The training within is told to stop in update number `wanted` (from 1), after which it saves."""
    with pytest.raises(Stopped), stop_on_signals(), in_update(wanted, send):
        yield


def n_rows(inputs: Inputs) -> int:
    """How many rows a model is given at once."""
    return len(next(iter(inputs.values())))
