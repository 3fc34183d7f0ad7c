"""The commands before training: demo, check, cache, folds."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from cxrlt.challenges.base import SplitBy
from cxrlt.commands.base import ChallengeName, Command, ImageCommand
from cxrlt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Generate a demo challenge: synthetic chest radiographs (phantoms) in the layout of CXR-LT 2023."""

    challenge: Positional[Literal["demo", "demo-single"]] = "demo"
    """demo: multi-label, any number of findings per image. demo-single: one class per image."""
    patients: int | None = None
    """Number of patients (default: enough for about 1,500 train, 400 dev and 1,500 test images)."""
    seed: int = 0
    """Random seed."""
    force: bool = False
    """Generate the images again."""

    def run(self) -> None:
        from cxrlt.phantom.demo import make_demo

        inputs_dir = self.workspace.inputs_dir(self.challenge)
        print(make_demo(inputs_dir, self.patients, self.seed, challenge=self.challenge, force=self.force))


@dataclass(frozen=True, kw_only=True)
class Check(Command):
    """Read every table of a challenge, find every image, and print a report. Changes no file.

    Also lists folds, runs and submissions that are outdated, with the commands that renew them.
    """

    challenge: ChallengeName
    allow_missing: bool = False
    """Count missing images instead of stopping with an error."""
    drop_shared_patients: bool = False
    """Remove patients from train who are also in dev or test."""

    def run(self) -> None:
        from cxrlt.inputs.check import check

        challenge = self.load_challenge(self.challenge)
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
class Cache(ImageCommand):
    """Decode every image once into a packed cache. Prints the disk space and time it needs first."""

    challenge: Positional[str]
    """Name of the challenge."""
    size: int = 512
    """Side of the square images in pixels: data.size / data.crop_pct of the recipe."""

    def run(self) -> None:
        for split, cache in self.image_source(self.challenge).load_all_splits(self.size).items():
            print(f"cache {split}: {len(cache.ids):,} images ({cache.directory})")


@dataclass(frozen=True, kw_only=True)
class MakeFolds(Command):
    """Split the training rows into folds, by patient (or lesion) and stratified by all labels."""

    challenge: Positional[str]
    """Name of the challenge."""
    n_folds: int | None = None
    """Number of folds (default: 5; 3 for the demos)."""
    seed: int = 0
    """Random seed."""
    allow_missing: bool = False
    """Use only the rows whose image exists."""
    drop_shared_patients: bool = False
    """Remove patients from train who are also in dev or test."""
    group_duplicates: bool = False
    """Treat patients who share an identical image as one patient. Needs decoded images (cxrlt cache)."""
    by: SplitBy = "patient"
    """image: ignore patients, as many papers do. If a patient has several images, this is data leakage."""
    allow_leakage: bool = False
    """With --by image: split although patients have several images. Every score then repeats this."""
    extend: bool = False
    """Add rows that are new in the table, remove rows that are gone, and keep the fold of all others."""
    force: bool = False
    """Replace an existing split. Runs trained on the old split can then no longer be used."""

    def run(self) -> None:
        """Run the command. Raises UserError for flags that cannot be combined."""
        from cxrlt.folds.make import extend_folds, make_folds

        challenge = self.load_challenge(self.challenge)
        flags = {"allow_missing": self.allow_missing, "drop_shared_patients": self.drop_shared_patients}
        if self.extend:
            by_image = self.by == "image" or self.allow_leakage
            if self.force or self.n_folds or self.group_duplicates or by_image:
                raise UserError(
                    "--extend keeps the existing split: remove --force, --n-folds, --group-duplicates, --by "
                    "and --allow-leakage."
                )
            print(extend_folds(challenge, self.workspace, **flags))
        else:
            flags |= {"group_duplicates": self.group_duplicates, "force": self.force}
            flags |= {"allow_leakage": self.allow_leakage}
            n_folds = self.n_folds or challenge.n_folds
            print(make_folds(challenge, self.workspace, n_folds, self.seed, by=self.by, **flags))
        if self.force or self.extend:
            self.print_outdated(challenge)
