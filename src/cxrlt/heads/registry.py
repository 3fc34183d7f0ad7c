"""Heads by name, each registered where it is defined, with its options.

What is declared is read in the source: recipes are checked, and `cxrlt train --help` lists the heads, without
waiting for torch. The class itself is imported when it is created.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

Option = int | float | bool | str


@dataclass(frozen=True)
class Registration:
    """A head and what holds for it.

    Its class is created as `(dim, n_classes, drop_rate, **options)`, and takes features (n, t, dim) and a
    mask (n, t) of the valid ones to logits (n, n_classes). One that does not read the map itself takes a
    pool, too: `(dim, n_classes, pool, drop_rate, **options)`. Its keyword-only arguments are the options.
    """

    about: str
    reads_map: bool = False
    """Whether it looks at every place of the feature map, and hence takes no pool."""
    cosines: bool = False
    """Whether its logits are cosines, in [-1, 1]."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """With their defaults."""


HEADS: dict[str, Registration] = {}
_CLASSES: dict[str, "type[nn.Module]"] = {}
HeadClass = TypeVar("HeadClass", bound="type[nn.Module]")


def head(name: str, *, about: str, **facts: bool) -> Callable[[HeadClass], HeadClass]:
    """Decorator: recipes know the class as `name`; `about` and `facts` are fields of Registration.

    A module of this package that has one needs no mention elsewhere; there, arguments and defaults must be
    written out. Raises ValueError for a name twice.
    """

    def register(kind: HeadClass) -> HeadClass:
        module = _declared()[name][0] if name in _declared() else kind.__module__
        if name in _CLASSES or kind.__module__ != module:
            raise ValueError(f"two heads are called {name!r}")
        parameters = inspect.signature(kind.__init__).parameters.values()
        options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
        HEADS[name], _CLASSES[name] = Registration(about, **facts, options=options), kind
        return kind

    return register


def head_names() -> list[str]:
    """In alphabetical order."""
    return sorted(HEADS)


def cosine_heads() -> list[str]:
    """Names of the heads whose logits are cosines."""
    return [name for name in head_names() if HEADS[name].cosines]


def require_head(name: str, options: Mapping[str, object]) -> None:
    """Raises ValueError for an unknown head or option, listing the known ones, and for a wrong type."""
    if name not in HEADS:
        raise ValueError(
            f"head {name!r} is not known{_nearest(name, HEADS)}; known: {', '.join(head_names())}"
        )
    known = HEADS[name].options
    for option, value in options.items():
        if option not in known:
            listed = f"its options: {', '.join(known)}" if known else "it has none"
            raise ValueError(f"head {name!r} has no option {option!r}{_nearest(option, known)}; {listed}")
        wanted = type(known[option])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ValueError(f"option {option!r} of head {name!r} must be {wanted.__name__}, not {value!r}")


def create_head(
    name: str,
    options: Mapping[str, Option],
    dim: int,
    n_classes: int,
    *,
    pool: "Callable[[], nn.Module]",
    drop_rate: float = 0.0,
) -> "nn.Module":
    """The head called `name` on features of `dim` channels. Raises ValueError for what does not fit."""
    require_head(name, options)
    if name not in _CLASSES:
        import_module(_declared()[name][0])
    if HEADS[name].reads_map:
        return _CLASSES[name](dim, n_classes, drop_rate, **options)
    return _CLASSES[name](dim, n_classes, pool(), drop_rate, **options)


@cache
def _declared() -> dict[str, tuple[str, Registration]]:
    """Module and registration of every head of this package, as their sources declare them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in getattr(node, "decorator_list", ()):
                if (
                    isinstance(node, ast.ClassDef)
                    and getattr(getattr(call, "func", None), "id", "") == "head"
                ):
                    facts = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
                    entry = Registration(**facts, options=_options_of(node))
                    found[ast.literal_eval(call.args[0])] = f"{__package__}.{path.stem}", entry
    return found


def _options_of(node: ast.ClassDef) -> dict[str, Option]:
    (init,) = [each for each in node.body if getattr(each, "name", "") == "__init__"]
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return {argument.arg: ast.literal_eval(default) for argument, default in pairs}


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


HEADS |= {name: entry for name, (_, entry) in _declared().items()}
