"""What a submission was written from, kept beside it: by that it is known to be outdated."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import RootModel

from cxrlt.artifacts import Artifact, Workspace, read_model, write_model
from cxrlt.calibration import Variant
from cxrlt.calibration.fitted import CALIBRATION, CalibrationRecord
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.current import made_of_final
from cxrlt.errors import UserError
from cxrlt.predictions.present import Present
from cxrlt.provenance import MadeOf, made_of
from cxrlt.system.locks import exclusive

RECORD = "made_of.json"


class Record(Artifact):
    """The submission of `name`, a run of the challenge `origin`, and what it was written from.

    `partial` are the folds it is of where that is not all of them. `notes` were printed with it: what its
    models were trained on that is not as it is now.
    """

    name: str
    origin: str
    split: str
    variant: Variant
    with_code: bool
    partial: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    made_of: MadeOf

    def command(self, challenge: str) -> str:
        """The command that writes it."""
        flags = f" --from {self.origin}" * (self.origin != challenge)
        flags += f" --probabilities {self.variant}" * (self.variant != "raw")
        flags += " --with-code" * self.with_code + " --partial" * (self.partial is not None)
        return f"cxrlt submit {self.name} --challenge {challenge} --split {self.split}{flags}"


class Records(RootModel[dict[str, Record]]):
    """made_of.json: a record per split."""


def write_record(challenge: Challenge, workspace: Workspace, record: Record) -> None:
    """Keep the record beside the submission and not in its zip."""
    folder = workspace.submission_dir(challenge.name, record.name)
    with exclusive(folder, wait=True):
        before = _entries(folder)
        if before.get(record.split) != record:
            write_model(folder / RECORD, Records(before | {record.split: record}))


def records(challenge: Challenge, workspace: Workspace) -> Iterator[Record]:
    """Those of every submission to the challenge; what cannot be read is left out."""
    for path in sorted((workspace.root / "submissions" / challenge.name).rglob(RECORD)):
        yield from _entries(path.parent).values()


def is_outdated(record: Record, present: Present) -> bool:
    """Whether predictions, or what was done with them, have changed since the submission was written.

    `present` is of the challenge it was written for, which need not be the one that was predicted.
    """
    try:
        if record.origin != present.challenge.name:
            # other challenges lie below the same root: --inputs and its like speak of this one
            there = Workspace(present.workspace.root)
            present = Present(get_challenge(record.origin, there.inputs_dir(record.origin)), there)
        if record.partial is not None:
            present = present.only(list(record.partial))
        now = made_of_submission(record.name, record.split, record.variant, present)
        return bool(present.differing(record.made_of, now, None))
    except UserError:
        return True


def outdated_line(path: Path, challenge: Challenge, workspace: Workspace) -> str | None:
    """What says that the submission file at `path` is outdated; None if it is not, or not known to be."""
    splits = {"submission": "test"} | {f"submission_{split}": split for split in challenge.splits}
    folder, present = path.absolute().parent, Present(challenge, workspace)
    for record in records(challenge, workspace):
        here = workspace.submission_dir(challenge.name, record.name) == folder
        if here and record.split == splits.get(path.stem) and is_outdated(record, present):
            command = record.command(challenge.name)
            return f"outdated: predictions have changed since {path} was written. Renew it with: {command}"
    return None


def made_of_submission(name: str, split: str, variant: Variant, present: Present) -> MadeOf:
    """What a submission of a run or an ensemble would be written from now."""
    parts = made_of_final(name, split, present)
    if variant == "raw":
        return parts
    path = present.workspace.run_dir(present.challenge.name, name) / CALIBRATION
    record = read_model(path, CalibrationRecord, "cxrlt calibrate")
    return parts | {"calibration": made_of(calibration=record.model_dump(mode="json"))["calibration"]}


def _entries(folder: Path) -> dict[str, Record]:
    """None where there is no record, or a damaged one: the next submission writes it again."""
    try:
        return read_model(folder / RECORD, Records, "cxrlt submit").root
    except UserError:
        return {}
