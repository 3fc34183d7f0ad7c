"""Reading the JSON that a stage wrote: usable, or a sentence with the command that writes it anew."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError

Parsed = TypeVar("Parsed")


def read_parsed(path: Path, parse: Callable[[dict], Parsed], made_by: str) -> Parsed:
    """What `parse` makes of the JSON object in `path`, which the command `made_by` writes.

    `parse` takes numbers and keys for granted: the errors that this raises become a UserError.
    """
    try:
        return parse(read_json(path, made_by))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        wrong = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used ({error})"
        raise UserError(f"{path} {wrong}. Make it again with: {made_by} --force") from error
