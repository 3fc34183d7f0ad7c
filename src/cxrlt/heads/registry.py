"""The registry of heads by name; each head is registered by a decorator where it is defined.

The decorators are read from the source code, so that recipes are checked and `cxrlt train --help` lists the
heads without importing torch. The class is imported when it is created.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from torch import nn

Option = int | float | bool | str


@dataclass(frozen=True)
class Registration:
    """The properties of a head.

    Its class is created with `(dim, n_classes, drop_rate, **options)`, or with `(dim, n_classes, pool,
    drop_rate, **options)` if it does not read the feature map. The options are its keyword-only arguments. It
    maps features (n, n_tokens, dim) and a mask (n, n_tokens) of valid positions to logits (n, n_classes).
    """

    about: str
    reads_map: bool = False
    """Whether it reads every position of the feature map, and so needs no pool."""
    cosines: bool = False
    """Whether its logits are cosines, in [-1, 1]."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Name -> default value."""


HEADS: dict[str, Registration] = {}
_CLASSES: dict[str, "type[nn.Module]"] = {}
HeadClass = TypeVar("HeadClass", bound="type[nn.Module]")


def head(name: str, *, about: str, **properties: bool) -> Callable[[HeadClass], HeadClass]:
    """Class decorator that registers a head as `name`; `about` and `properties` are fields of Registration.

    Heads in this package are found automatically; their decorator arguments and option defaults must be
    literals. Raises ValueError for a duplicate name.
    """

    def register(cls: HeadClass) -> HeadClass:
        module = _declared_heads()[name][0] if name in _declared_heads() else cls.__module__
        if name in _CLASSES or cls.__module__ != module:
            raise ValueError(f"two heads have the name {name!r}")
        parameters = inspect.signature(cls.__init__).parameters.values()
        options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
        HEADS[name], _CLASSES[name] = Registration(about, **properties, options=options), cls
        return cls

    return register


def head_names() -> list[str]:
    """Return the names of all heads in alphabetical order."""
    return sorted(HEADS)


def cosine_heads() -> list[str]:
    """Return the names of the heads whose logits are cosines."""
    return [name for name in head_names() if HEADS[name].cosines]


def require_head(name: str, options: Mapping[str, object]) -> None:
    """Raises ValueError for an unknown head or option, listing the known ones, and for a wrong type."""
    if name not in HEADS:
        raise ValueError(
            f"head {name!r} is not known{_did_you_mean(name, HEADS)}; known: {', '.join(head_names())}"
        )
    defaults = HEADS[name].options
    for option, value in options.items():
        if option not in defaults:
            listed = f"its options: {', '.join(defaults)}" if defaults else "it has no options"
            raise ValueError(
                f"head {name!r} has no option {option!r}{_did_you_mean(option, defaults)}; {listed}"
            )
        expected = type(defaults[option])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise ValueError(f"option {option!r} of head {name!r} must be {expected.__name__}, not {value!r}")


def create_head(
    name: str,
    options: Mapping[str, Option],
    dim: int,
    n_classes: int,
    *,
    pool: "Callable[[], nn.Module]",
    drop_rate: float = 0.0,
) -> "nn.Module":
    """Create the head `name` for features of `dim` channels. Raises ValueError for a wrong name or option."""
    require_head(name, options)
    if name not in _CLASSES:
        import_module(_declared_heads()[name][0])
    if HEADS[name].reads_map:
        return _CLASSES[name](dim, n_classes, drop_rate, **options)
    return _CLASSES[name](dim, n_classes, pool(), drop_rate, **options)


@cache
def _declared_heads() -> dict[str, tuple[str, Registration]]:
    """Return module and registration of every head of this package, read from the source code."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in getattr(node, "decorator_list", ()):
                if (
                    isinstance(node, ast.ClassDef)
                    and getattr(getattr(call, "func", None), "id", "") == "head"
                ):
                    properties = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
                    entry = Registration(**properties, options=_read_options(node))
                    found[ast.literal_eval(call.args[0])] = f"{__package__}.{path.stem}", entry
    return found


def _read_options(node: ast.ClassDef) -> dict[str, Option]:
    (init,) = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return {argument.arg: ast.literal_eval(cast(ast.expr, default)) for argument, default in pairs}


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


HEADS |= {name: entry for name, (_, entry) in _declared_heads().items()}
