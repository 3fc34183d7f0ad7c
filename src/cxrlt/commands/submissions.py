"""Submission files: written, validated, scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cxrlt.calibration import Variant
from cxrlt.commands.base import Folders


@dataclass(frozen=True, kw_only=True)
class Submit(Folders):
    """Write a submission from a run's predictions, validate it and zip it."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["dev", "test"] = "test"
    from_: Annotated[str | None, arg(name="from")] = None
    """Another challenge whose run NAME is: its classes are picked by name."""
    probabilities: Variant = "raw"
    """raw: the model's own. calibrated: how likely a class is. f1: .5 where F1 is best. All rank alike."""
    with_code: bool = False
    """Put the code and the recipes into the zip."""
    partial: bool = False
    """Submit the mean of the folds that are finished."""

    def run(self) -> None:
        from cxrlt.submissions.submit import submit

        origin = self.challenge_of(self.from_) if self.from_ else None
        challenge = self.challenge_of(self.challenge)
        flags = {
            "origin": origin,
            "variant": self.probabilities,
            "with_code": self.with_code,
            "partial": self.partial,
        }
        print(submit(challenge, self.workspace, self.name, self.split, **flags))


@dataclass(frozen=True, kw_only=True)
class Validate(Folders):
    """Would the server accept this file?"""

    file: Positional[Path]
    """A CSV, or a zip that holds one."""
    challenge: str = "demo"
    split: Literal["dev", "test"] = "test"

    def run(self) -> None:
        from cxrlt.submissions.record import outdated_line
        from cxrlt.submissions.validate import validate

        challenge = self.challenge_of(self.challenge)
        print(validate(self.file, challenge, self.split, self.workspace))
        if line := outdated_line(self.file, challenge, self.workspace):
            print(line)


@dataclass(frozen=True, kw_only=True)
class Score(Folders):
    """The challenge's metrics for any submission file."""

    file: Positional[Path]
    """A CSV, or a zip that holds one."""
    truth: Path
    """A CSV with the ids and the true labels."""
    against: Path | None = None
    """Another submission: by how much the first one is ahead, on the same patients drawn."""
    challenge: str = "demo"

    def run(self) -> None:
        from cxrlt.reports.score_table import ahead_line, score_table
        from cxrlt.submissions.record import outdated_line
        from cxrlt.submissions.score import score_file

        challenge = self.challenge_of(self.challenge)
        first = score_file(self.file, self.truth, challenge, self.workspace)
        print(score_table(first))
        if line := outdated_line(self.file, challenge, self.workspace):
            print(f"\n{line}")
        if self.against is not None:
            second = score_file(self.against, self.truth, challenge, self.workspace)
            print(f"\n{ahead_line(first, second, str(self.against))}")
