"""Radiographs, tables and folds: what comes before training."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from cxrlt.commands.base import ChallengeName, Folders, Images
from cxrlt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Demo(Folders):
    """Make a demo challenge's radiographs: chest phantoms with the layout of CXR-LT 2023."""

    challenge: Positional[Literal["demo", "demo-single"]] = "demo"
    """demo: any number of findings in a picture; demo-single: exactly one, or none."""
    patients: int | None = None
    """How many patients (default: about 1,500 train, 400 development and 1,500 test images)."""
    seed: int = 0
    force: bool = False
    """Draw them again."""

    def run(self) -> None:
        from cxrlt.phantom.demo import make_demo

        inputs_dir = self.workspace.inputs_dir(self.challenge)
        print(make_demo(inputs_dir, self.patients, self.seed, challenge=self.challenge, force=self.force))


@dataclass(frozen=True, kw_only=True)
class Check(Folders):
    """Read every table of a challenge, find every image, and report; changes nothing.

    Also lists what of the folds, runs and submissions there are is outdated, with the commands that renew it.
    """

    challenge: ChallengeName
    allow_missing: bool = False
    """Missing images are counted, not an error."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""

    def run(self) -> None:
        from cxrlt.inputs.check import check

        challenge = self.challenge_of(self.challenge)
        print(
            check(
                challenge,
                self.workspace,
                allow_missing=self.allow_missing,
                drop_shared_patients=self.drop_shared_patients,
            )
        )
        if self.workspace.folds_path(challenge.name).is_file():
            self.print_outdated(challenge)


@dataclass(frozen=True, kw_only=True)
class Cache(Images):
    """Decode every image once into a packed cache; says first what it costs in disk and time."""

    challenge: Positional[str]
    size: int = 512
    """Side of the square images in pixels: a recipe's data.size, divided by its data.crop_pct."""

    def run(self) -> None:
        for split, cache in self.source(self.challenge).all_splits(self.size).items():
            print(f"cache {split}: {len(cache.ids):,} images ({cache.directory})")


@dataclass(frozen=True, kw_only=True)
class MakeFolds(Folders):
    """Split the training rows: patients whole, every label spread evenly."""

    challenge: Positional[str]
    n_folds: int | None = None
    """How many (default: 5; 3 for the demos)."""
    seed: int = 0
    allow_missing: bool = False
    """Split only the rows whose image exists."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""
    group_duplicates: bool = False
    """Make patients who share an identical picture one; needs decoded images (cxrlt cache)."""
    extend: bool = False
    """Take in the rows that the table has got since, and take out those it has lost; no row moves."""
    force: bool = False
    """Replace the split that is there; runs trained on it are refused from then on."""

    def run(self) -> None:
        from cxrlt.folds.make import extend_folds, make_folds

        challenge = self.challenge_of(self.challenge)
        flags = {"allow_missing": self.allow_missing, "drop_shared_patients": self.drop_shared_patients}
        if self.extend:
            if self.force or self.n_folds or self.group_duplicates:
                raise UserError(
                    "--extend keeps the split there is: leave --force, --n-folds, --group-duplicates out."
                )
            print(extend_folds(challenge, self.workspace, **flags))
        else:
            flags |= {"group_duplicates": self.group_duplicates, "force": self.force}
            n_folds = self.n_folds or challenge.n_folds
            print(make_folds(challenge, self.workspace, n_folds, self.seed, **flags))
        if self.force or self.extend:
            self.print_outdated(challenge)
