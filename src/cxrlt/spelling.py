"""What a name that is not known was perhaps meant to be, and which names differ in spelling alone."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

from cxrlt.errors import quoted

LONGEST = 100
"""Characters of a name that may be a misspelt one; longer ones would take long to compare."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` whose spelling is nearest to `name`, case and underscores aside."""
    if len(name) > LONGEST:
        return None
    plain = {item.casefold().replace("_", " "): item for item in known if len(item) <= LONGEST}
    matches = get_close_matches(name.casefold().replace("_", " "), plain, n=1, cutoff=0.8)
    return plain[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the nearest of `known`, or nothing."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near else ""


def plain(name: str) -> str:
    """What names have in common that differ only in case, direction of slashes, a ./ or form of Unicode."""
    if "\\" in name or "." in name or "//" in name:
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def other_spellings(names: Iterable[str], known: Iterable[str]) -> str:
    """The end of an error about `names` that are not `known`: that some differ only in spelling, if so."""
    by_spelling = {plain(name): name for name in known}
    pairs = [(name, by_spelling[plain(name)]) for name in names if plain(name) in by_spelling]
    if not pairs:
        return ""
    here, there = map(quoted, pairs[0])
    count = "1 of them differs" if len(pairs) == 1 else f"{len(pairs):,} of them differ"
    return (
        f" {count} only in spelling (case, slashes or form of Unicode), as {here} here, {there} there: "
        "write ids alike."
    )
