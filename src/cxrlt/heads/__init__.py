"""Classification heads for the features of an image or a study; usable without the rest of the package.

A class with the decorator `@head(...)` in a module of this package is found automatically.
"""

from cxrlt.heads.registry import (
    HEADS,
    Option,
    Registration,
    cosine_heads,
    create_head,
    head,
    head_names,
    require_head,
)

__all__ = [
    "HEADS",
    "Option",
    "Registration",
    "cosine_heads",
    "create_head",
    "head",
    "head_names",
    "require_head",
]
