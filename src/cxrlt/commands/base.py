"""Base classes of the commands: the flags that several commands share."""

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
class Command:
    """Flags of every command: where files are."""

    root: Path = field(default_factory=lambda: Path(os.environ.get("CXRLT_ROOT", ".")))
    """Folder with inputs/, folds/ and submissions/ (default: $CXRLT_ROOT, else the current directory)."""
    inputs: Path | None = None
    """Folder with the tables of the challenge (default: inputs/CHALLENGE)."""
    images: Path | None = None
    """Folder that image paths are relative to (default: the inputs folder)."""
    cache_dir: Path | None = None
    """Folder for decoded images (default: inputs/cache)."""

    def run(self) -> None:
        """Run the command. Raises UserError for what the user can fix."""
        raise NotImplementedError

    @property
    def workspace(self) -> Workspace:
        """The folders that the flags set."""
        return Workspace(self.root.absolute(), self.inputs, self.images, self.cache_dir)

    def load_challenge(self, name: str) -> Challenge:
        """Return the challenge `name`. Raises UserError for an unknown one."""
        return get_challenge(name, self.workspace.inputs_dir(name))

    def print_outdated(self, challenge: Challenge, names: "Collection[str] | None" = None) -> None:
        """Print outdated files that depend on the runs `names` (default: any), and how to renew them."""
        from cxrlt.submissions.outdated import describe_outdated

        if text := describe_outdated(challenge, self.workspace, names):
            print(text)


@dataclass(frozen=True, kw_only=True)
class ImageCommand(Command):
    """Flags of the commands that read images."""

    allow_missing: bool = False
    """Use only the rows whose image exists, and print how many rows that is."""
    quarantine: bool = False
    """Skip images that cannot be read, and record them in a file."""

    def image_source(self, name: str) -> "ImageSource":
        """Return the images of a challenge with these flags. Raises UserError for an unknown challenge."""
        from cxrlt.inputs.images import ImageSource

        return ImageSource(self.load_challenge(name), self.workspace, self.allow_missing, self.quarantine)
