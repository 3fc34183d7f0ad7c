"""Patients of the training table that dev or test have too: a leak that makes scores too high."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import MissingFileError, listing


@dataclass(frozen=True)
class SharedPatients:
    """What train shares with every other split whose table is there.

    `patients` holds patient ids by split (image ids where train has no patients); `images` is the index of
    the training rows concerned; of the splits in `unknown` only images could be compared, not patients.
    """

    patients: Mapping[str, tuple[str, ...]]
    images: pd.Index
    train_images: int
    unknown: tuple[str, ...] = ()

    def sentence(self, with_ids: bool = False) -> str:
        """The counts, for logs; with patients' ids for a report and for an error."""
        if self.images.empty:
            found = f"No patient of train is in {' or '.join(self.patients) or 'another split'}."
        else:
            shares = [
                f"{len(ids):,} in {split}{f' ({listing(ids)})' if with_ids else ''}"
                for split, ids in self.patients.items()
                if ids
            ]
            found = (
                f"Patients of train that another split has too: {', '.join(shares)}; "
                f"they have {len(self.images):,} of the {self.train_images:,} training images."
            )
        if not self.unknown:
            return found
        return f"{found} Of {' and '.join(self.unknown)} only images were compared: patients are not given."


def other_tables(challenge: Challenge, workspace: Workspace) -> dict[str, pd.DataFrame]:
    """The tables of dev and test that are there: a test table is often published months after train."""
    tables = {}
    for split in challenge.splits:
        if split != "train":
            try:
                tables[split] = challenge.read(split, workspace.inputs_dir(challenge.name))
            except MissingFileError:
                continue
    return tables


def find_shared_patients(train: pd.DataFrame, others: Mapping[str, pd.DataFrame]) -> SharedPatients:
    """Training rows whose patient, or whose very image, another split has."""
    patients, images, unknown = {}, set(), []
    for split, other in others.items():
        same_patient = _among(train["patient"], other["patient"].dropna())
        # by path: in folders of images, other images of two splits may have the same id
        shared = train[same_patient | _among(train["path"], other["path"])]
        patients[split] = tuple(sorted(shared["patient"].fillna(shared.index.to_series()).unique()))
        if train["patient"].isna().all() or other["patient"].isna().all():
            unknown.append(split)
        images.update(shared.index)
    return SharedPatients(patients, train.index[train.index.isin(images)], len(train), tuple(unknown))


def _among(values: pd.Series, others: pd.Series) -> pd.Series:
    """Which values are among the others. As objects: pandas is slow to compare its own strings."""
    return values.astype(object).isin(others.unique().astype(object))
