"""What a name that is not known was perhaps meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 100
"""Characters of a name that may be a misspelt one; longer ones would take long to compare."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` whose spelling is nearest to `name`, case and underscores aside."""
    if len(name) > LONGEST:
        return None
    plain = {item.casefold().replace("_", " "): item for item in known if len(item) <= LONGEST}
    matches = get_close_matches(name.casefold().replace("_", " "), plain, n=1, cutoff=0.8)
    return plain[matches[0]] if matches else None
