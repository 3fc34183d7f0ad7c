"""Pictures that are there twice, byte for byte: under two patients of train, or in two splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrlt.errors import listing

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SamePictures:
    """Pairs of image ids that are one picture.

    `patients` are of two patients of train; `splits` by two splits, the id in the first one before that in
    the second.
    """

    patients: Pairs
    splits: Mapping[tuple[str, str], Pairs]

    def sentences(self, challenge: str) -> list[str]:
        """What was found, and what fixes it; nothing where nothing was found."""
        found = []
        if self.patients:
            found.append(
                f"{challenge}: warning: {len(self.patients):,} training images are identical, byte for byte, "
                f"to one of another patient: {_listed(self.patients)}. "
                f"Keep such patients in one fold with: cxrlt folds {challenge} --group-duplicates"
            )
        for (first, second), pairs in self.splits.items():
            if pairs:
                too_high = f" A score on {second} is too high." if first == "train" else ""
                found.append(
                    f"{challenge}: warning: {len(pairs):,} images of {second} are identical, byte for byte, "
                    f"to one of {first}: {_listed(pairs)}.{too_high}"
                )
        return found


def same_pictures(hashes: Mapping[str, pd.Series], tables: Mapping[str, pd.DataFrame]) -> SamePictures:
    """By split: `hashes` of its images (index image_id; missing where unknown) and its table.

    An image without a patient counts as of a patient of its own.
    """
    known = {split: hashes[split].dropna().sort_index() for split in tables}
    within = _of_two_patients(known["train"], tables["train"]["patient"]) if "train" in known else ()
    across = {
        (first, second): _pairs(known[first], known[second]) for first, second in combinations(known, 2)
    }
    return SamePictures(within, across)


def grouped_patients(table: pd.DataFrame, hashes: pd.Series) -> pd.Series:
    """The column `patient` where patients who share an identical picture are one, named as the first of them.

    First in sorted order. Where the data set has no patients (all NA), images are the patients: those that
    are identical become one. Index image_id; `hashes` may lack images, or their hash. A patient that only
    some rows lack stays NA.
    """
    patient = table["patient"].astype(object)
    patient = table.index.to_series().astype(object) if patient.isna().all() else patient
    who, names = pd.factorize(patient, sort=True)
    picture, pictures = pd.factorize(hashes.reindex(table.index))
    known = (who >= 0) & (picture >= 0)
    n_nodes = len(names) + len(pictures)
    edges = (np.ones(known.sum(), bool), (who[known], len(names) + picture[known]))
    group = connected_components(coo_array(edges, (n_nodes, n_nodes)), directed=False)[1][: len(names)]
    first = pd.Series(names, dtype=object).groupby(group).transform("first").to_numpy()
    return pd.Series(first[who], table.index, name="patient").where(who >= 0)


def _of_two_patients(hashes: pd.Series, patient: pd.Series) -> Pairs:
    """Of every picture the first image, with the first one of each of its other patients."""
    hashes = hashes[hashes.duplicated(keep=False)]
    ids = hashes.index.to_series()
    who = patient.reindex(hashes.index).astype(object).fillna(ids)
    firsts = pd.DataFrame({"picture": hashes, "patient": who}).drop_duplicates()["picture"]
    return _pairs(firsts[~firsts.duplicated()], firsts[firsts.duplicated()])


def _pairs(first: pd.Series, second: pd.Series) -> Pairs:
    """Every image of `second` that is also in `first`, with the first such image there."""
    second = second[second.isin(first)]
    by_hash = first[first.isin(second)]
    by_hash = pd.Series(by_hash.index, by_hash).groupby(level=0, sort=False).first()
    return tuple(zip(by_hash[second], second.index, strict=True))


def _listed(pairs: Pairs) -> str:
    return listing(f"{first} = {second}" for first, second in pairs)
