"""What a submission was written from, kept beside it: by that it is known for outdated."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from cxrlt.artifacts import Workspace, read_json, sha256_of, write_json
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.locks import exclusive
from cxrlt.predictions.calibration import CALIBRATION
from cxrlt.predictions.choices import Variant
from cxrlt.predictions.fingerprint import final_fingerprint

RECORD = "made_of.json"
"""One entry per split."""


@dataclass(frozen=True)
class Record:
    """The submission of `name`, a run of the challenge `origin`, and the hash of what it was written from."""

    name: str
    origin: str
    split: str
    variant: Variant
    with_code: bool
    made_of: str

    def command(self, challenge: str) -> str:
        """The command that writes it."""
        flags = f" --from {self.origin}" * (self.origin != challenge)
        flags += (
            f" --probabilities {self.variant}" * (self.variant != "raw") + " --with-code" * self.with_code
        )
        return f"cxrlt submit {self.name} --challenge {challenge} --split {self.split}{flags}"


def write_record(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str,
    origin: Challenge,
    variant: Variant,
    with_code: bool,
) -> None:
    """Keep what the submission of `name` for `split` was written from, beside it and not in its zip."""
    made_of = _made_of(origin, workspace, name, split, variant)
    record = Record(name, origin.name, split, variant, with_code, made_of)
    folder = workspace.submission_dir(challenge.name, name)
    with exclusive(folder, wait=True):
        before = _entries(folder)
        if before.get(split) != asdict(record):
            write_json(folder / RECORD, before | {split: asdict(record)})


def records(challenge: Challenge, workspace: Workspace) -> Iterator[Record]:
    """Those of every submission to the challenge; what cannot be read is left out."""
    for path in sorted((workspace.root / "submissions" / challenge.name).rglob(RECORD)):
        for entry in _entries(path.parent).values():
            try:
                yield Record(**entry)
            except TypeError:
                continue


def is_outdated(record: Record, challenge: Challenge, workspace: Workspace) -> bool:
    """Whether predictions, or what was done with them, have changed since the submission was written."""
    own = record.origin == challenge.name
    try:
        # other challenges lie below the same root: --inputs and its like speak of this one
        inputs_dir = Workspace(workspace.root).inputs_dir(record.origin)
        origin = challenge if own else get_challenge(record.origin, inputs_dir)
        return _made_of(origin, workspace, record.name, record.split, record.variant) != record.made_of
    except UserError:
        return True


def outdated_line(path: Path, challenge: Challenge, workspace: Workspace) -> str | None:
    """What says that the submission file at `path` is outdated; None if it is not, or not known to be."""
    splits = {"submission": "test"} | {f"submission_{split}": split for split in challenge.splits}
    folder = path.absolute().parent
    for record in records(challenge, workspace):
        here = workspace.submission_dir(challenge.name, record.name) == folder
        if here and record.split == splits.get(path.stem) and is_outdated(record, challenge, workspace):
            command = record.command(challenge.name)
            return f"outdated: predictions have changed since {path} was written. Renew it with: {command}"
    return None


def _made_of(origin: Challenge, workspace: Workspace, name: str, split: str, variant: Variant) -> str:
    made_of = final_fingerprint(origin, workspace, name, split)
    maps = workspace.run_dir(origin.name, name) / CALIBRATION
    if variant == "raw":
        return made_of
    return sha256(f"{made_of} {sha256_of(maps) if maps.is_file() else ''}".encode()).hexdigest()


def _entries(folder: Path) -> dict[str, dict]:
    """None where there is no record, or a damaged one: the next submission writes it anew."""
    try:
        entries = read_json(folder / RECORD, "cxrlt submit")
    except UserError:
        return {}
    return {split: entry for split, entry in entries.items() if isinstance(entry, dict)}
