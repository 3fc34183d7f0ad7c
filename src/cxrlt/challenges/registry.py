"""The registry of challenges: `@challenge("name")` adds one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.spelling import closest_match

Create = Callable[..., Challenge]
CreateFunction = TypeVar("CreateFunction", bound=Create)
REGISTERED = re.compile(r'^@challenge\("([^"]+)"', re.MULTILINE)
"""The line that registers a challenge. run.sh searches for the same line before any package is installed."""


@dataclass(frozen=True)
class Registration:
    """A registered challenge: `create(name)`, or `create(name, inputs_dir)` with `from_inputs`."""

    create: Create
    from_inputs: bool


CHALLENGES: dict[str, Registration] = {}
"""Challenges whose modules have been imported."""


def challenge(name: str, *, from_inputs: bool = False) -> Callable[[CreateFunction], CreateFunction]:
    """Decorator that registers a function `create(name)` which returns the challenge `name`.

    With `from_inputs` it is called as `create(name, inputs_dir)`, and reads the challenge from that folder. A
    module of this package needs no other registration. Raises ValueError if the name is already registered.
    """

    def register(create: CreateFunction) -> CreateFunction:
        if name in CHALLENGES:
            raise ValueError(f"two challenges have the name {name!r}")
        CHALLENGES[name] = Registration(create, from_inputs)
        return create

    return register


def challenge_names() -> list[str]:
    """Return all names that `get_challenge` accepts, sorted."""
    return sorted({*CHALLENGES, *_modules()})


def get_challenge(name: str, inputs_dir: Path | None = None) -> Challenge:
    """Return the challenge `name`; some read their definition from `inputs_dir`.

    Raises UserError for an unknown name, and for a wrong or missing inputs folder.
    """
    if name not in CHALLENGES and name in _modules():
        import_module(_modules()[name])
    if name not in CHALLENGES:
        match = closest_match(name, challenge_names())
        meant = f" Did you mean {match!r}?" if match else ""
        raise UserError(f"There is no challenge {name!r}.{meant} Known: {', '.join(challenge_names())}.")
    entry = CHALLENGES[name]
    if not entry.from_inputs:
        return entry.create(name)
    if inputs_dir is None:
        raise UserError(f"The challenge {name} is defined by its inputs folder: set it with --inputs.")
    return entry.create(name, inputs_dir)


@cache
def _modules() -> dict[str, str]:
    """Return name -> module, from the source files, so that `cxrlt --help` does not import pandas."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return {
        name: f"{__package__}.{source.stem}"
        for source in sources
        for name in REGISTERED.findall(source.read_text(encoding="utf-8"))
    }
