"""Find patients that are in train and in dev or test: this leakage makes scores too high."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import MissingFileError, listing


@dataclass(frozen=True)
class SharedPatients:
    """Patients that train shares with the other splits.

    `patients` are the patient ids by split (image ids if train has no patients). `images` is the index of
    their training rows. For the splits in `unknown` only images were compared, as patients are not known.
    """

    patients: Mapping[str, tuple[str, ...]]
    images: pd.Index
    train_images: int
    unknown: tuple[str, ...] = ()

    def summary(self, with_ids: bool = False) -> str:
        """Return a sentence with the counts; with `with_ids` also with the patient ids."""
        if self.images.empty:
            found = f"No patient of train is in {' or '.join(self.patients) or 'another split'}."
        else:
            shares = [
                f"{len(ids):,} in {split}{f' ({listing(ids)})' if with_ids else ''}"
                for split, ids in self.patients.items()
                if ids
            ]
            found = (
                f"Patients of train that are also in another split: {', '.join(shares)}; "
                f"they have {len(self.images):,} of the {self.train_images:,} training images."
            )
        if not self.unknown:
            return found
        return f"{found} For {' and '.join(self.unknown)} only images were compared, as patients are unknown."


def read_dev_and_test(challenge: Challenge, workspace: Workspace) -> dict[str, pd.DataFrame]:
    """Return the existing tables of dev and test (index image_id), by split.

    The table of test is often published months after train. Raises UserError for a bad table.
    """
    tables = {}
    for split in challenge.splits:
        if split != "train":
            try:
                tables[split] = challenge.read(split, workspace.inputs_dir(challenge.name))
            except MissingFileError:
                continue
    return tables


def find_shared_patients(train: pd.DataFrame, others: Mapping[str, pd.DataFrame]) -> SharedPatients:
    """Find the training rows whose patient or image path is also in another split.

    `train` and the tables in `others` have index image_id and columns `patient` and `path`.
    """
    patients: dict[str, tuple[str, ...]] = {}
    images: set[str] = set()
    unknown = []
    for split, other in others.items():
        same_patient = _isin(train["patient"], other["patient"].dropna())
        # images by path, as two different images of two splits may have the same id
        shared = train[same_patient | _isin(train["path"], other["path"])]
        patients[split] = tuple(sorted(shared["patient"].fillna(shared.index.to_series()).unique()))
        if train["patient"].isna().all() or other["patient"].isna().all():
            unknown.append(split)
        images.update(shared.index)
    return SharedPatients(patients, train.index[train.index.isin(images)], len(train), tuple(unknown))


def _isin(values: pd.Series, others: pd.Series) -> pd.Series:
    """Return `values.isin(others)`; with dtype object, as pandas compares its own strings slowly."""
    return values.astype(object).isin(others.unique().astype(object))
