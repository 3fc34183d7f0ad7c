"""What a name that is not known was perhaps meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` whose spelling is nearest to `name`, case and underscores aside."""
    plain = {item.casefold().replace("_", " "): item for item in known}
    matches = get_close_matches(name.casefold().replace("_", " "), plain, n=1, cutoff=0.8)
    return plain[matches[0]] if matches else None
