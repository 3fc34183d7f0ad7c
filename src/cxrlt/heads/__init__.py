"""Classifiers on the features of an image, or of a study's images; usable without the rest of the package.

Every module here that holds a class under `@head(...)` needs no mention elsewhere.
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
