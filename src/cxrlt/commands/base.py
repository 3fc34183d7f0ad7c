"""The flags that several commands share."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from cxrlt.artifacts import Workspace
from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.challenges.base import Challenge

if TYPE_CHECKING:
    from collections.abc import Collection

    from cxrlt.inputs.images import ImageSource

ChallengeName = Positional[Annotated[str, arg(help=f"One of {', '.join(challenge_names())}.")]]


@dataclass(frozen=True, kw_only=True)
class Folders:
    root: Path = field(default_factory=lambda: Path(os.environ.get("CXRLT_ROOT", ".")))
    """Where inputs/, folds/ and submissions/ lie (default: $CXRLT_ROOT, else the current directory)."""
    inputs: Path | None = None
    """Where the challenge's tables lie (default: inputs/CHALLENGE)."""
    images: Path | None = None
    """The folder that image paths are relative to, if it is not the inputs folder."""
    cache_dir: Path | None = None
    """Where decoded images are kept (default: inputs/cache)."""

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root.absolute(), self.inputs, self.images, self.cache_dir)

    def challenge_of(self, name: str) -> Challenge:
        return get_challenge(name, self.workspace.inputs_dir(name))

    def print_outdated(self, challenge: Challenge, names: "Collection[str] | None" = None) -> None:
        """Print what is outdated of all that depends on the runs `names`, or on any, and what renews it."""
        from cxrlt.submissions.dependents import outdated_listing

        if text := outdated_listing(challenge, self.workspace, names):
            print(text)


@dataclass(frozen=True, kw_only=True)
class Images(Folders):
    allow_missing: bool = False
    """Go on with the rows whose image exists, and say how many that is."""
    quarantine: bool = False
    """Drop images that cannot be read, and record them."""

    def source(self, name: str) -> "ImageSource":
        from cxrlt.inputs.images import ImageSource

        return ImageSource(self.challenge_of(name), self.workspace, self.allow_missing, self.quarantine)
