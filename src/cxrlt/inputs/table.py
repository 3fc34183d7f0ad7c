"""The table of a split as every stage reads it: rows that may be used, images that exist."""

import sys

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.locate import locate_images
from cxrlt.inputs.shared_patients import SharedPatients, find_shared_patients, other_tables


class NoImagesError(UserError):
    """Not one image of a split is there."""


def load_labels(
    challenge: Challenge, split: str, workspace: Workspace, *, drop_shared_patients: bool = False
) -> pd.DataFrame:
    """The table of `split`; of train, without the patients that dev or test have too if so asked.

    Raises UserError for bad tables, and for shared patients where the challenge is strict about them;
    elsewhere they are a warning on stderr.
    """
    table = challenge.read(split, workspace.inputs_dir(challenge.name))
    if split != "train":
        return table
    shared = find_shared_patients(table, other_tables(challenge, workspace))
    return without_shared(challenge, table, shared, drop_shared_patients)


def without_shared(
    challenge: Challenge, train: pd.DataFrame, shared: SharedPatients, drop: bool
) -> pd.DataFrame:
    """The training rows that may be used. Raises UserError if a strict challenge shares patients."""
    if shared.images.empty:
        return train
    if drop:
        _say(f"{challenge.name}: {shared.sentence()} They are left out (--drop-shared-patients).")
        return train.drop(shared.images)
    if challenge.strict_patients:
        raise UserError(
            f"{challenge.name}: {shared.sentence(with_ids=True)} Scores would be too high: "
            "--drop-shared-patients takes them out of train."
        )
    _say(f"{challenge.name}: warning: {shared.sentence()} The official split is kept as it is.")
    return train


def load_table(
    challenge: Challenge,
    split: str,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> pd.DataFrame:
    """As `load_labels`, with a column `file`: the absolute path (str) of the row's image.

    Raises UserError with the count and the first ten if images are missing, unless `allow_missing`, which
    drops their rows and says so on stderr; no image at all is a NoImagesError in any case.
    """
    table = load_labels(challenge, split, workspace, drop_shared_patients=drop_shared_patients)
    table = with_files(challenge, table, workspace)
    if not table["file"].isna().any():
        return table
    problem = missing_images(challenge, split, table, workspace)
    kept = table.dropna(subset="file")
    if kept.empty:
        raise NoImagesError(f"{problem} Not one is there: name the right folder with --images.")
    if not allow_missing:
        raise UserError(f"{problem} Fetch them, or continue without them with --allow-missing.")
    _say(f"{problem} Going on with {len(kept):,} of {len(table):,} rows (--allow-missing).")
    return kept


def with_files(challenge: Challenge, table: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """The table with the column `file`: the absolute path of the row's image, None where there is none."""
    images_dir = workspace.images_dir(challenge.name)
    return table.assign(file=locate_images(table["path"], images_dir, challenge.image_folders()))


def missing_images(challenge: Challenge, split: str, table: pd.DataFrame, workspace: Workspace) -> str:
    """The sentence about the rows of a table `with_files` that have none."""
    missing = table["path"][table["file"].isna()]
    shown = listing(missing)
    images_dir = workspace.images_dir(challenge.name)
    counts = f"{len(missing):,} of {len(table):,} images"
    return f"{challenge.name} {split}: {counts} are not in {images_dir}: {shown}."


def study_codes(table: pd.DataFrame) -> NDArray[np.int64]:
    """A number per row (int64, from 0 in order of appearance), the same for the images of a study.

    A study is one of a patient: names of studies may repeat between patients. A row whose study is unknown is
    a study of its own. Where `table` has a column `fold`, images of another fold are of another study.
    """
    keys = ["patient", "study", *(["fold"] if "fold" in table else [])]
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    codes = np.where(table["study"].isna(), len(table) + np.arange(len(table)), codes)
    return pd.factorize(codes)[0].astype(np.int64)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
