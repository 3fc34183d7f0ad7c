"""Patients of the training table that dev or test have too: the leak that flatters a score."""

from collections.abc import Callable, Mapping
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

    @property
    def sentence(self) -> str:
        """One line with the counts, for logs."""
        return self._sentence(lambda split, names: f"{len(names):,} in {split}")

    @property
    def named(self) -> str:
        """The same with patients' ids, for a report and for who has to decide."""
        return self._sentence(lambda split, names: f"{len(names):,} in {split} ({listing(names)})")

    def _sentence(self, share: Callable[[str, tuple[str, ...]], str]) -> str:
        if self.images.empty:
            found = f"No patient of train is in {' or '.join(self.patients) or 'another split'}."
        else:
            shares = ", ".join(share(split, names) for split, names in self.patients.items() if names)
            found = (
                f"Patients of train that another split has too: {shares}; "
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
        names = shared["patient"].fillna(shared.index.to_series())
        patients[split] = tuple(sorted(names.unique()))
        if train["patient"].isna().all() or other["patient"].isna().all():
            unknown.append(split)
        images.update(shared.index)
    return SharedPatients(patients, train.index[train.index.isin(images)], len(train), tuple(unknown))


def _among(values: pd.Series, others: pd.Series) -> pd.Series:
    """Which values are among the others. As objects: pandas takes its own texts apart one by one."""
    return values.astype(object).isin(others.unique().astype(object))
