"""The stage `cxrlt score`: the challenge's metrics of any submission file, given the true labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges import columns
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import read_csv
from cxrlt.errors import UserError, listing
from cxrlt.predictions.scoring import Evaluation, score_frame
from cxrlt.submissions.read import read_submission
from cxrlt.submissions.record import submission_notes


def score_file(path: Path, truth_path: Path, challenge: Challenge, workspace: Workspace) -> Evaluation:
    """Score the CSV or zip at `path` against a CSV with ids and true labels, by id and class name.

    Rows without true labels do not count. The intervals resample patients if a table of the challenge has
    them, else rows. A file that `cxrlt submit` wrote keeps its notes. Raises UserError if a file cannot be
    read or lacks ids, classes or probabilities.
    """
    truth = read_truth(truth_path, challenge)
    scores = _read_scores(path, challenge)
    patients = _patients(truth.index, challenge, workspace)
    found = score_frame(challenge, scores, truth, patients, name=path.name, split=truth_path.name)
    return replace(found, notes=(*found.notes, *submission_notes(path, challenge, workspace)))


def read_truth(path: Path, challenge: Challenge) -> pd.DataFrame:
    """Read true labels from a CSV (index image_id, one column per class).

    Raises UserError for a missing column, a wrong label or a duplicate id.
    """
    file = read_csv(path)
    image_id = columns.read_ids(file, file.column(challenge.id_column, challenge.submission_id))
    labels = columns.read_labels(file, challenge.classes, required=True, task=challenge.task)
    return _by_id(labels, image_id, path)


def _read_scores(path: Path, challenge: Challenge) -> pd.DataFrame:
    submission = read_submission(path)
    if (id_name := challenge.submission_id) not in submission.header:
        raise UserError(f"{path} has no column {id_name!r}; it has {listing(submission.header)}.")
    found = [name for name in challenge.classes if name in submission.header]
    if len(found) < len(challenge.classes):
        missing = [name for name in challenge.classes if name not in found]
        raise UserError(f"{path} lacks classes of {challenge.name}: {listing(missing)}.")
    values = pd.DataFrame(submission.numbers(found), submission.row_numbers, found)
    if (infinite := np.isinf(values.to_numpy()).any(axis=1)).any():
        raise UserError(f"{path} has infinite values in rows {listing(values.index[infinite])}.")
    return _by_id(values, submission.column(id_name), path)


def _by_id(frame: pd.DataFrame, image_id: pd.Series, path: Path) -> pd.DataFrame:
    twice = image_id[image_id.duplicated()].unique()
    if len(twice):
        raise UserError(f"{path} has duplicate ids: {listing(twice)}.")
    return frame.set_index(pd.Index(image_id, name="image_id"))


def _patients(ids: pd.Index, challenge: Challenge, workspace: Workspace) -> pd.Series | None:
    """Return the patients of the first split that has all `ids`, or None if no table has them."""
    for split in reversed(challenge.splits):
        try:
            table = challenge.read(split, workspace.inputs_dir(challenge.name))
        except UserError:  # the tables are optional here
            continue
        if ids.isin(table.index).all():
            return table["patient"]
    return None
