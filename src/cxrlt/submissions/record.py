"""provenance.json: the provenance of a submission, saved next to it, and the check whether it is outdated."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import RootModel

from cxrlt.artifacts import Artifact, Workspace, read_artifact, write_artifact
from cxrlt.calibration import Variant
from cxrlt.calibration.artifact import CALIBRATION, CalibrationRecord
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.provenance import final_provenance
from cxrlt.errors import UserError
from cxrlt.predictions.current_data import CurrentData
from cxrlt.provenance import Provenance, provenance_of
from cxrlt.system.locks import lock_folder

RECORD = "provenance.json"


class SubmissionRecord(Artifact):
    """The submission of a run or an ensemble `name` of the challenge `origin`, with its provenance.

    `partial` has the folds that were used, or None for all folds. `notes` were printed with the submission.
    """

    name: str
    origin: str
    split: str
    variant: Variant
    with_code: bool
    partial: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    provenance: Provenance

    def command(self, challenge: str) -> str:
        """Return the command that writes the submission."""
        flags = f" --from {self.origin}" * (self.origin != challenge)
        flags += f" --probabilities {self.variant}" * (self.variant != "raw")
        flags += " --with-code" * self.with_code + " --partial" * (self.partial is not None)
        return f"cxrlt submit {self.name} --challenge {challenge} --split {self.split}{flags}"


class SubmissionRecords(RootModel[dict[str, SubmissionRecord]]):
    """provenance.json: a record per split."""


def write_record(challenge: Challenge, workspace: Workspace, record: SubmissionRecord) -> None:
    """Save the record in the folder of the submission, outside its zip."""
    folder = workspace.submission_dir(challenge.name, record.name)
    with lock_folder(folder, wait=True):
        before = _entries(folder)
        if before.get(record.split) != record:
            write_artifact(folder / RECORD, SubmissionRecords(before | {record.split: record}))


def read_records(challenge: Challenge, workspace: Workspace) -> Iterator[SubmissionRecord]:
    """Yield the record of every submission to the challenge; unreadable records are skipped."""
    for path in sorted((workspace.root / "submissions" / challenge.name).rglob(RECORD)):
        yield from _entries(path.parent).values()


def is_outdated(record: SubmissionRecord, current: CurrentData) -> bool:
    """Return whether predictions, ensemble or calibration have changed since the submission was written.

    `current` belongs to the challenge of the submission; the run may belong to another challenge.
    """
    try:
        if record.origin != current.challenge.name:
            # --inputs and similar flags apply to this challenge only, not to the origin
            workspace = Workspace(current.workspace.root)
            origin = get_challenge(record.origin, workspace.inputs_dir(record.origin))
            current = CurrentData(origin, workspace)
        if record.partial is not None:
            current = current.for_folds(list(record.partial))
        now = submission_provenance(record.name, record.split, record.variant, current)
        return bool(current.find_differences(record.provenance, now, None))
    except UserError:
        return True


def submission_notes(path: Path, challenge: Challenge, workspace: Workspace) -> tuple[str, ...]:
    """Return the notes that were printed with the submission file at `path`; none for any other file."""
    record = _record_of(path, challenge, workspace)
    return record.notes if record else ()


def outdated_message(path: Path, challenge: Challenge, workspace: Workspace) -> str | None:
    """Return a message if the submission file at `path` is outdated; None if it is current or unknown."""
    record = _record_of(path, challenge, workspace)
    if record is None or not is_outdated(record, CurrentData(challenge, workspace)):
        return None
    command = record.command(challenge.name)
    return f"outdated: predictions have changed since {path} was written. Renew it with: {command}"


def _record_of(path: Path, challenge: Challenge, workspace: Workspace) -> SubmissionRecord | None:
    """Return the record of the submission file at `path`, or None if it is not in its folder."""
    splits = {"submission": "test"} | {f"submission_{split}": split for split in challenge.splits}
    for record in read_records(challenge, workspace):
        same_folder = workspace.submission_dir(challenge.name, record.name) == path.absolute().parent
        if same_folder and record.split == splits.get(path.stem):
            return record
    return None


def submission_provenance(name: str, split: str, variant: Variant, current: CurrentData) -> Provenance:
    """Return the provenance that a submission of a run or an ensemble would have now."""
    parts = final_provenance(name, split, current)
    if variant == "raw":
        return parts
    path = current.workspace.run_dir(current.challenge.name, name) / CALIBRATION
    record = read_artifact(path, CalibrationRecord, "cxrlt calibrate")
    return parts | {"calibration": provenance_of(calibration=record.model_dump(mode="json"))["calibration"]}


def _entries(folder: Path) -> dict[str, SubmissionRecord]:
    """Return the records in a folder, or {} if the file is missing or damaged."""
    try:
        return read_artifact(folder / RECORD, SubmissionRecords, "cxrlt submit").root
    except UserError:
        return {}
