"""What the initial weights of a run are: their terms, and which images of the challenge they have seen."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pydantic import Field

from cxrlt.artifacts import Artifact
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import read_csv
from cxrlt.errors import UserError, listing

IMAGE_COLUMNS = re.compile(r"(image|dicom|file)([ _]?(id|index|name|path|file))?|f?path")
"""Usual names, in lower case, of the column that identifies an image."""
SUFFIX = r"(?i)\.(?:png|jpe?g|dcm|dicom|tiff?|bmp|webp|gif)$"
NO_LABELS = (
    "If that pretraining used no labels, this is no label leakage, but every report of a score must say it; "
    "if it used labels of these images, their scores are too high"
)


class SeenImages(Artifact):
    """How many of the `images` of a split the pretraining has `seen`."""

    seen: int
    images: int


class InitialWeights(Artifact):
    """The weights that a run started from. With model.init_from: those of the first run of the chain.

    `restricted`: the terms forbid some uses or are not known, or access needs a form. `weights` is a row of
    `cxrlt weights`, `address` where the file comes from, `revision` its commit on the hub. `seen` are the
    images on the list `pretrained_images`, by split of the challenge, for the splits that had a table.
    """

    licence: str = "not recorded"
    restricted: bool = False
    weights: str | None = None
    address: str | None = None
    revision: str | None = None
    sha256: str | None = None
    pretrained_on: tuple[str, ...] = ()
    pretrained_images: str | None = None
    seen: dict[str, SeenImages] = Field(default_factory=dict)


def weights_notes(weights: InitialWeights, challenge: Challenge) -> list[str]:
    """Return what training and every report must say: restricted terms, and images that were seen before."""
    notes, facts = [], []
    if weights.restricted:
        name = weights.weights or weights.address
        notes.append(
            f"the initial weights{f' ({name})' if name else ''} are not free for every use (licence: "
            f"{weights.licence}): read their terms before you share a model or a score"
        )
    splits_of = {name: challenge.splits_from(name) for name in weights.pretrained_on}
    if known := [f"{name} ({_words(splits)})" for name, splits in splits_of.items() if splits]:
        facts.append(f"were pretrained on images of {challenge.name}, from {' and '.join(known)}")
    if weights.seen:
        counts = [
            f"{count.seen:,} of {count.images:,} {_words([split])} images ({count.seen / count.images:.1%})"
            for split, count in weights.seen.items()
        ]
        facts.append(
            f"have seen {', '.join(counts)}, counted with {Path(weights.pretrained_images or '').name}"
        )
    if facts:
        has_seen = known or any(count.seen for count in weights.seen.values())
        notes.append(f"the initial weights {' and '.join(facts)}{f'. {NO_LABELS}' if has_seen else ''}")
    return notes


def count_seen_images(
    path: Path, tables: Mapping[str, pd.DataFrame], id_column: str
) -> dict[str, SeenImages]:
    """Count the images of each split (tables with index image_id and column path) that a CSV file lists.

    It has a row per image. File names are compared without folder and image suffix, by id and by path; case
    counts. Raises UserError for a missing or empty file, or one without a column of image names.
    """
    listed = _read_listed(path, id_column)
    return {
        split: SeenImages(seen=_count_listed(table, listed), images=len(table))
        for split, table in tables.items()
    }


def _read_listed(path: Path, id_column: str) -> set[str]:
    """Return the file names in a list of images, also without folder and suffix."""
    file = read_csv(path, "Correct model.pretrained_images, or remove it.")
    texts = {name: values for name in file.columns if ((values := file.text(name)) != "").any()}
    columns = [
        values
        for name, values in texts.items()
        if name == id_column or IMAGE_COLUMNS.fullmatch(name.lower()) or values.str.contains(SUFFIX).any()
    ]
    if not columns:
        raise UserError(
            f"model.pretrained_images: {path} has no column with the names of images, only "
            f"{listing(file.columns)}. Name the column image_id or path."
        )
    return {name for values in columns for name in (*values, *_stems(values))} - {""}


def _count_listed(table: pd.DataFrame, listed: set[str]) -> int:
    found = pd.Series(False, table.index)
    for names in (table.index.to_series(), table["path"]):
        stems = _stems(names)
        unique = stems if stems.is_unique else names  # view1.png in every folder: compare whole paths
        found |= unique.isin(listed)
    return int(found.sum())


def _stems(names: pd.Series) -> pd.Series:
    """Return file names without their folder and image suffix."""
    return names.str.replace(r"^.*[/\\]", "", regex=True).str.replace(SUFFIX, "", regex=True)


def _words(splits: list[str]) -> str:
    return ", ".join("train/OOF" if split == "train" else split for split in splits)
