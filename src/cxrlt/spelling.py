"""Suggestions for unknown names, and names that differ only in spelling."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

from cxrlt.errors import quoted

MAX_CHARS = 100
"""Longer names get no suggestion: comparing them takes too long."""


def closest_match(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, ignoring case and underscores, or None."""
    if len(name) > MAX_CHARS:
        return None
    by_normalised = {item.casefold().replace("_", " "): item for item in known if len(item) <= MAX_CHARS}
    matches = get_close_matches(name.casefold().replace("_", " "), by_normalised, n=1, cutoff=0.8)
    return by_normalised[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' with the most similar known name, or an empty string."""
    match = closest_match(name, known)
    return f" (did you mean {match}?)" if match else ""


def normalise_spelling(name: str) -> str:
    """Return the same text for names that differ only in case, slash direction, `./` or Unicode form."""
    if "\\" in name or "." in name or "//" in name:
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def other_spellings(names: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of an error about unknown `names`: how many differ only in spelling, or nothing."""
    by_spelling = {normalise_spelling(name): name for name in known}
    pairs = [
        (name, by_spelling[normalise_spelling(name)])
        for name in names
        if normalise_spelling(name) in by_spelling
    ]
    if not pairs:
        return ""
    here, there = map(quoted, pairs[0])
    count = "1 of them differs" if len(pairs) == 1 else f"{len(pairs):,} of them differ"
    return (
        f" {count} only in spelling (case, slashes or form of Unicode), as {here} here, {there} there: "
        "use the same spelling."
    )
