"""A submission on disk: the template's rows and columns, filled in by id and by class name."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, atomic_path
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.submissions.validate import validate_submission

# Near 1 a probability needs more digits than its logit: 12 keep logits up to 13 apart that differ by 1e-6.
DIGITS = "%.12g"
MEMBER = "submission.csv"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
ZIP_MODE = 0o644


class IncompleteError(UserError):
    """Rows of the template have no prediction."""


@dataclass(frozen=True)
class Written:
    """The files of a submission; `unchanged` if they stood there already, byte for byte."""

    csv_path: Path
    zip_path: Path
    n_rows: int
    unchanged: bool

    def __str__(self) -> str:
        if self.unchanged:
            return f"submission: already done ({self.zip_path})"
        return f"submission: valid, {self.n_rows:,} rows ({self.zip_path})"


def write_submission(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str,
    probabilities: pd.DataFrame,
    code: Mapping[str, Path] | None = None,
) -> Written:
    """Write the CSV and the zip of `name` for `split`, once they have passed validation.

    `probabilities` (index image_id, a column per class) may hold rows and columns in any order, and more of
    them. `code` are files to add to the zip, by their name in it. The same values give the same bytes. Raises
    IncompleteError for rows without a prediction, UserError for what the validator finds.
    """
    ids = challenge.template(split, workspace.inputs_dir(challenge.name))
    table = submission_csv(challenge, ids, probabilities)
    packed = _pack({MEMBER: table} | {path: file.read_bytes() for path, file in sorted((code or {}).items())})
    folder = workspace.submission_dir(challenge.name, name)
    stem = "submission" if split == "test" else f"submission_{split}"
    contents = {folder / f"{stem}.csv": table, folder / f"{stem}.zip": packed}
    unchanged = all(path.is_file() and path.read_bytes() == content for path, content in contents.items())
    if not unchanged:
        for path, content in contents.items():
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
                _require_valid(temporary, path, challenge, ids)
    return Written(*contents, len(ids), unchanged)


def submission_csv(challenge: Challenge, ids: Sequence[str], probabilities: pd.DataFrame) -> bytes:
    """The file's bytes: rows in the order of `ids`, columns in the challenge's, 12 significant digits."""
    absent = [name for name in challenge.classes if name not in probabilities.columns]
    if absent:
        raise UserError(f"The predictions lack classes of {challenge.name}: {listing(absent)}.")
    if not probabilities.index.is_unique:
        twice = probabilities.index[probabilities.index.duplicated()].unique()
        raise UserError(f"The predictions hold ids more than once: {listing(twice)}.")
    rows = probabilities.reindex(index=ids, columns=list(challenge.classes)).astype(np.float64)
    missing = rows.index[rows.isna().any(axis=1)]
    if len(missing):
        raise IncompleteError(
            f"{len(missing):,} of the template's {len(ids):,} ids have no prediction: {listing(missing)}."
        )
    text = rows.to_csv(index_label=challenge.id_column, float_format=DIGITS, lineterminator="\n")
    return text.encode()


def _pack(contents: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes depend on its contents alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix, wherever it is written
            info.external_attr = ZIP_MODE << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def _require_valid(written: Path, path: Path, challenge: Challenge, ids: Sequence[str]) -> None:
    problems = validate_submission(written, challenge, ids)
    if problems:
        raise UserError(f"{path} was not written, as it would be rejected. {' '.join(problems)}")
