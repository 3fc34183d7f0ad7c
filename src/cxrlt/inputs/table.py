"""Load the table of a split, without rows that may not be used (shared patients, missing images)."""

import sys

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.locate import locate_images
from cxrlt.inputs.shared_patients import SharedPatients, find_shared_patients, read_dev_and_test


class NoImagesError(UserError):
    """All images of a split are missing."""


def load_labels(
    challenge: Challenge, split: str, workspace: Workspace, *, drop_shared_patients: bool = False
) -> pd.DataFrame:
    """Return the table of `split`: index image_id.

    With `drop_shared_patients`, train is returned without the patients that are also in dev or test. Raises
    UserError for a bad table, and for shared patients if the challenge has `strict_patients`; otherwise
    shared patients are a warning on stderr.
    """
    table = challenge.read(split, workspace.inputs_dir(challenge.name))
    if split != "train":
        return table
    shared = find_shared_patients(table, read_dev_and_test(challenge, workspace))
    return apply_patient_policy(challenge, table, shared, drop_shared_patients)


def apply_patient_policy(
    challenge: Challenge, train: pd.DataFrame, shared: SharedPatients, drop: bool
) -> pd.DataFrame:
    """Return the training rows that may be used: with `drop`, without shared patients (index image_id).

    Raises UserError if a challenge with `strict_patients` shares patients and they are not dropped.
    """
    if shared.images.empty:
        return train
    if drop:
        _print(f"{challenge.name}: {shared.summary()} They are removed from train (--drop-shared-patients).")
        return train.drop(shared.images)
    if challenge.strict_patients:
        raise UserError(
            f"{challenge.name}: {shared.summary(with_ids=True)} Scores would be too high. "
            "Remove these patients from train with: --drop-shared-patients"
        )
    _print(f"{challenge.name}: warning: {shared.summary()} The official split is used without changes.")
    return train


def load_table(
    challenge: Challenge,
    split: str,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> pd.DataFrame:
    """Return the table of `load_labels` with a column `file`: the absolute path (str) of each image.

    Raises UserError with the count and the first ten names if images are missing. With `allow_missing` their
    rows are dropped instead, with a message on stderr. Raises NoImagesError if all images are missing.
    """
    table = load_labels(challenge, split, workspace, drop_shared_patients=drop_shared_patients)
    table = add_file_column(challenge, table, workspace)
    if not table["file"].isna().any():
        return table
    problem = missing_images_message(challenge, split, table, workspace)
    kept = table.dropna(subset="file")
    if kept.empty:
        raise NoImagesError(f"{problem} All images are missing: set the right folder with --images.")
    if not allow_missing:
        raise UserError(f"{problem} Download them, or continue without them with --allow-missing.")
    _print(f"{problem} Continuing with {len(kept):,} of {len(table):,} rows (--allow-missing).")
    return kept


def add_file_column(challenge: Challenge, table: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Return `table` (index image_id, column `path`) with a column `file`: absolute paths, None if missing.

    Raises UserError if the images folder does not exist, or if a path is ambiguous.
    """
    images_dir = workspace.images_dir(challenge.name)
    return table.assign(file=locate_images(table["path"], images_dir, challenge.image_folders()))


def missing_images_message(
    challenge: Challenge, split: str, table: pd.DataFrame, workspace: Workspace
) -> str:
    """Return the message about the missing images of a `table` with a column `file`."""
    missing = table["path"][table["file"].isna()]
    shown = listing(missing)
    images_dir = workspace.images_dir(challenge.name)
    counts = f"{len(missing):,} of {len(table):,} images"
    return f"{challenge.name} {split}: {counts} are not in {images_dir}: {shown}."


def study_codes(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the number of each row's study: int64 (n_rows,), numbered in order of appearance.

    Studies of two patients are different even if they have the same name. A row with an unknown study is a
    separate study. If `table` has a column `fold`, images of two folds are never in one study.
    """
    keys = ["patient", "study", *(["fold"] if "fold" in table else [])]
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    codes = np.where(table["study"].isna(), len(table) + np.arange(len(table)), codes)
    return pd.factorize(codes)[0].astype(np.int64)


def _print(message: str) -> None:
    print(message, file=sys.stderr)
