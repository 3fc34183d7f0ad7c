"""Find duplicate images (byte for byte) of two patients of train, or in two splits."""

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
class DuplicateImages:
    """Pairs of image ids with identical files.

    `patients` are pairs within train, of two different patients. `splits` are pairs by (first, second) split;
    the first id of a pair is in the first split.
    """

    patients: Pairs
    splits: Mapping[tuple[str, str], Pairs]

    def warnings(self, challenge: str) -> list[str]:
        """Return a warning for each kind of duplicate found, with the command that fixes it."""
        found = []
        if self.patients:
            found.append(
                f"{challenge}: warning: {len(self.patients):,} training images are identical, byte for byte, "
                f"to an image of another patient: {_listing_of_pairs(self.patients)}. "
                f"Keep these patients in one fold with: cxrlt folds {challenge} --group-duplicates"
            )
        for (first, second), pairs in self.splits.items():
            if pairs:
                too_high = f" Scores on {second} are too high." if first == "train" else ""
                found.append(
                    f"{challenge}: warning: {len(pairs):,} images of {second} are identical, byte for byte, "
                    f"to an image of {first}: {_listing_of_pairs(pairs)}.{too_high}"
                )
        return found


def find_duplicate_images(
    hashes: Mapping[str, pd.Series], tables: Mapping[str, pd.DataFrame]
) -> DuplicateImages:
    """Find duplicates within train (of two patients) and between splits.

    By split: `hashes` of its images (index image_id, missing if unknown) and its table (index image_id, with
    a column `patient`). An image without a patient counts as a separate patient.
    """
    known = {split: hashes[split].dropna().sort_index() for split in tables}
    within = _pairs_of_two_patients(known["train"], tables["train"]["patient"]) if "train" in known else ()
    across = {
        (first, second): _pairs(known[first], known[second]) for first, second in combinations(known, 2)
    }
    return DuplicateImages(within, across)


def merge_duplicate_patients(table: pd.DataFrame, hashes: pd.Series) -> pd.Series:
    """Merge patients who share an identical image: return `patient` (index image_id) after merging.

    A merged patient gets the first of the names in sorted order. If the data set has no patients (all NA),
    every image is a patient, and identical images are merged. If only some rows lack a patient, they stay NA.
    `hashes` (index image_id) may lack images or contain None.
    """
    patient = table["patient"].astype(object)
    patient = table.index.to_series().astype(object) if patient.isna().all() else patient
    code, names = pd.factorize(patient, sort=True)
    content, contents = pd.factorize(hashes.reindex(table.index))
    known = (code >= 0) & (content >= 0)
    # a graph with an edge from each patient to the content of each of the patient's images
    n_nodes = len(names) + len(contents)
    edges = (np.ones(known.sum(), bool), (code[known], len(names) + content[known]))
    group = connected_components(coo_array(edges, (n_nodes, n_nodes)), directed=False)[1][: len(names)]
    first = pd.Series(names, dtype=object).groupby(group).transform("first").to_numpy()
    return pd.Series(first[code], table.index, name="patient").where(code >= 0)


def _pairs_of_two_patients(hashes: pd.Series, patient: pd.Series) -> Pairs:
    """Pair the first image of each hash with the first image of each other patient who has it."""
    hashes = hashes[hashes.duplicated(keep=False)]
    ids = hashes.index.to_series()
    owner = patient.reindex(hashes.index).astype(object).fillna(ids)
    firsts = pd.DataFrame({"hash": hashes, "patient": owner}).drop_duplicates()["hash"]
    return _pairs(firsts[~firsts.duplicated()], firsts[firsts.duplicated()])


def _pairs(first: pd.Series, second: pd.Series) -> Pairs:
    """Pair each image of `second` that is also in `first` with the first such image of `first`."""
    second = second[second.isin(first)]
    by_hash = first[first.isin(second)]
    by_hash = pd.Series(by_hash.index, by_hash).groupby(level=0, sort=False).first()
    return tuple(zip(by_hash[second], second.index, strict=True))


def _listing_of_pairs(pairs: Pairs) -> str:
    return listing(f"{first} = {second}" for first, second in pairs)
