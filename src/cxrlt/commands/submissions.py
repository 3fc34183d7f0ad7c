"""The commands for submission files: submit, validate, score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cxrlt.calibration import Variant
from cxrlt.commands.base import ChallengeName, Command, ImageCommand


@dataclass(frozen=True, kw_only=True)
class Submit(Command):
    """Write a submission from the predictions of a run or ensemble, validate it and zip it."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    """Name of the challenge."""
    split: Literal["dev", "test"] = "test"
    """The split of the submission."""
    from_: Annotated[str | None, arg(name="from")] = None
    """The challenge that run NAME belongs to, if it is another one. Classes are matched by name."""
    probabilities: Variant = "raw"
    """raw: of the model. calibrated: true frequencies. f1: 0.5 at the best F1 threshold. All rank equally."""
    with_code: bool = False
    """Add the code and the recipes to the zip."""
    partial: bool = False
    """Submit the mean of the finished folds only."""

    def run(self) -> None:
        from cxrlt.submissions.submit import submit

        origin = self.load_challenge(self.from_) if self.from_ else None
        challenge = self.load_challenge(self.challenge)
        print(
            submit(
                challenge,
                self.workspace,
                self.name,
                self.split,
                origin=origin,
                variant=self.probabilities,
                with_code=self.with_code,
                partial=self.partial,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Validate(Command):
    """Check that the challenge server will accept a submission file."""

    file: Positional[Path]
    """A CSV file, or a zip file with one CSV file in it."""
    challenge: str = "demo"
    """Name of the challenge."""
    split: Literal["dev", "test"] = "test"
    """The split of the submission."""

    def run(self) -> None:
        from cxrlt.submissions.record import outdated_message
        from cxrlt.submissions.validate import validate

        challenge = self.load_challenge(self.challenge)
        print(validate(self.file, challenge, self.split, self.workspace))
        if line := outdated_message(self.file, challenge, self.workspace):
            print(line)


@dataclass(frozen=True, kw_only=True)
class Score(Command):
    """Score a submission file with the metrics of the challenge."""

    file: Positional[Path]
    """A CSV file, or a zip file with one CSV file in it."""
    truth: Path
    """A CSV file with ids and true labels."""
    against: Path | None = None
    """Another submission file, to compare with on the same bootstrap samples of patients."""
    challenge: str = "demo"
    """Name of the challenge."""

    def run(self) -> None:
        from cxrlt.reports.score_table import difference_line, score_table
        from cxrlt.submissions.record import outdated_message
        from cxrlt.submissions.score import score_file

        challenge = self.load_challenge(self.challenge)
        first = score_file(self.file, self.truth, challenge, self.workspace)
        print(score_table(first))
        if line := outdated_message(self.file, challenge, self.workspace):
            print(f"\n{line}")
        if self.against is not None:
            second = score_file(self.against, self.truth, challenge, self.workspace)
            print(f"\n{difference_line(first, second, str(self.against))}")


@dataclass(frozen=True, kw_only=True)
class Report(ImageCommand):
    """Write one HTML page about the runs of a challenge: scores, classes, data, training, members.

    It opens without a network. It has no id of an image or patient, and no path; no image either, without
    --with-images.
    """

    challenge: ChallengeName
    names: Positional[tuple[str, ...]] = ()
    """Runs and ensembles to show (default: all that do not belong to an experiment)."""
    with_images: bool = False
    """Show the clearest hits, misses and false alarms of every class, with heat maps."""

    def run(self) -> None:
        from cxrlt.reports.run_report import write_report

        source = self.image_source(self.challenge)
        print(write_report(source, self.names, with_images=self.with_images))
