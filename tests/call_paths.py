"""The functions of the package between a command and its main effect."""

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from unittest.mock import patch

import cxrlt
from cxrlt import cli

PACKAGE = Path(cxrlt.__file__).parent
WRITING = os.O_WRONLY | os.O_RDWR
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


@dataclass(frozen=True)
class Function:
    """A function of the package; `file` is relative to the package."""

    file: str
    name: str


class ReachedError(Exception):
    """Stops the command when it calls backward."""


def frames_to_backward(command: Sequence[str]) -> list[Function]:
    """Return the call stack from the command's function to the caller of backward, outermost first.

    `command`: the arguments of `cxrlt`. It stops at backward.
    """
    from accelerate import Accelerator

    def stop(*_: object) -> None:
        raise ReachedError

    with patch.object(Accelerator, "backward", stop):
        try:
            cli.main(list(command))
        except ReachedError as error:
            codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
            return _from_command(_package_functions(codes))
    raise AssertionError("the command did not call backward")


def functions_to_csv(command: Sequence[str]) -> list[Function]:
    """Return the functions that the command calls before it writes the first CSV file, each once.

    Comprehensions and functions called by imports do not count.
    """
    codes: dict[CodeType, None] = {}
    written: list[str] = []

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not written:
            codes[frame.f_code] = None

    def watch_open(event: str, details: tuple) -> None:
        if event == "open" and isinstance(details[0], str) and ".csv" in details[0] and details[2] & WRITING:
            written.append(details[0])

    sys.addaudithook(watch_open)  # permanent: Python cannot remove audit hooks
    sys.setprofile(record)
    try:
        cli.main(list(command))
    finally:
        sys.setprofile(None)
    assert written, "the command did not write a CSV file"
    return _from_command(_package_functions(codes))


def n_files(functions: Iterable[Function]) -> int:
    return len({function.file for function in functions})


def _package_functions(codes: Iterable[CodeType]) -> list[Function]:
    function_codes = [code for code in codes if code.co_flags & CO_OPTIMIZED]  # excludes class bodies
    return [
        Function(str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname)
        for code in function_codes
        if Path(code.co_filename).is_relative_to(PACKAGE) and code.co_name not in COMPREHENSIONS
    ]


def _from_command(functions: list[Function]) -> list[Function]:
    first = next(n for n, function in enumerate(functions) if function.name.endswith(".run"))
    return functions[first:]
