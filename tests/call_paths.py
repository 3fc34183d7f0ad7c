"""Which functions of the package lie between a command and what it is there for."""

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
class Place:
    """A function of the package, its file relative to it."""

    file: str
    function: str


class ReachedError(Exception):
    """What the command is there for has been reached."""


def frames_to_backward(command: Sequence[str]) -> list[Place]:
    """The frames of the package from the command's function to the one that calls backward, outermost first.

    `command` are the words behind `cxrlt`; it is stopped there.
    """
    from accelerate import Accelerator

    def stop(*_: object) -> None:
        raise ReachedError

    with patch.object(Accelerator, "backward", stop):
        try:
            cli.main(list(command))
        except ReachedError as error:
            codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
            return _from_the_command(_places(codes))
    raise AssertionError("the command never called backward")


def functions_to_csv(command: Sequence[str]) -> list[Place]:
    """The functions of the package that are entered between the command's own and the CSV, each once.

    The CSV is the first file that the command writes to whose name has .csv in it. Not counted are
    comprehensions and what importing a module runs.
    """
    codes: dict[CodeType, None] = {}
    written: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not written:
            codes[frame.f_code] = None

    def watch(event: str, details: tuple) -> None:
        if event == "open" and isinstance(details[0], str) and ".csv" in details[0] and details[2] & WRITING:
            written.append(details[0])

    sys.addaudithook(watch)  # for good: Python can remove none
    sys.setprofile(note)
    try:
        cli.main(list(command))
    finally:
        sys.setprofile(None)
    assert written, "the command never wrote a CSV"
    return _from_the_command(_places(codes))


def n_files(places: Iterable[Place]) -> int:
    return len({place.file for place in places})


def _places(codes: Iterable[CodeType]) -> list[Place]:
    functions = [code for code in codes if code.co_flags & CO_OPTIMIZED]  # the bodies of classes are not
    return [
        Place(str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname)
        for code in functions
        if Path(code.co_filename).is_relative_to(PACKAGE) and code.co_name not in COMPREHENSIONS
    ]


def _from_the_command(places: list[Place]) -> list[Place]:
    first = next(n for n, place in enumerate(places) if place.function.endswith(".run"))
    return places[first:]
