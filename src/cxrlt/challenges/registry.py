"""Challenges by name, each registered where it is defined."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.spelling import nearest

Create = Callable[..., Challenge]
REGISTERED = re.compile(r'^@challenge\("([^"]+)"', re.MULTILINE)
"""The line that registers a challenge. run.sh looks for the same before Python has any package."""


@dataclass(frozen=True)
class Registration:
    """`create(name)`, or `create(name, inputs_dir)` if the challenge is `from_inputs`."""

    create: Create
    from_inputs: bool


CHALLENGES: dict[str, Registration] = {}
"""Those whose modules have been imported."""


def challenge(name: str, *, from_inputs: bool = False) -> Callable[[Create], Create]:
    """Decorator: `cxrlt` knows the challenge that the function makes as `name`, which is its first argument.

    With `from_inputs` the second one is the inputs folder, whose content decides. A module of this package
    that has such a function needs no mention elsewhere. Raises ValueError for a name twice.
    """

    def register(create: Create) -> Create:
        if name in CHALLENGES:
            raise ValueError(f"two challenges are called {name!r}")
        CHALLENGES[name] = Registration(create, from_inputs)
        return create

    return register


def challenge_names() -> list[str]:
    """Every name `get_challenge` knows, in alphabetical order."""
    return sorted({*CHALLENGES, *_modules()})


def get_challenge(name: str, inputs_dir: Path | None = None) -> Challenge:
    """The challenge of that name; some follow from what is in `inputs_dir`.

    Raises UserError for an unknown name.
    """
    if name not in CHALLENGES and name in _modules():
        import_module(_modules()[name])
    if name not in CHALLENGES:
        near = nearest(name, challenge_names())
        meant = f" Did you mean {near!r}?" if near else ""
        raise UserError(f"There is no challenge {name!r}.{meant} Known: {', '.join(challenge_names())}.")
    entry = CHALLENGES[name]
    if not entry.from_inputs:
        return entry.create(name)
    if inputs_dir is None:
        raise UserError(f"The challenge {name} follows from its inputs: name their folder with --inputs.")
    return entry.create(name, inputs_dir)


@cache
def _modules() -> dict[str, str]:
    """Name -> module of this package, by its source: `cxrlt --help` does not wait for pandas."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return {
        name: f"{__package__}.{source.stem}"
        for source in sources
        for name in REGISTERED.findall(source.read_text(encoding="utf-8"))
    }
