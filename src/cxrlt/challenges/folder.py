"""The challenge `folder`: images in one subfolder per class."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import field_validator

from cxrlt.challenges.base import DEFAULT_METRIC, DEFAULT_RECIPES, RESERVED_COLUMNS, SPLITS, Challenge
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.spec import SPEC_FILE, Spec, read_spec
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.spelling import closest_match

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLIT_NAMES = {"training": "train", "val": "dev", "valid": "dev", "validation": "dev", "testing": "test"}
"""Other names of the splits -> our names."""


class FolderSpec(Spec):
    """Keys of challenge.yaml, which is optional."""

    patient: str | None = None
    """A regular expression for file names; its first group is the patient."""

    @field_validator("patient")
    @classmethod
    def _check_pattern(cls, patient: str | None) -> str | None:
        if patient is not None:
            try:
                groups = re.compile(patient).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"is not a regular expression: {error}") from error
            if not groups:
                raise ValueError(
                    "needs a group in parentheses that matches the patient, for example '^([0-9]+)_'"
                )
        return patient


@dataclass(frozen=True, kw_only=True)
class FolderChallenge(Challenge):
    """A challenge from folders: train, dev and test; without these, all images are train.

    Ids are paths inside the folder of the split. They are unique in a split; two splits can have the same
    ids.
    """

    spec: FolderSpec

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        return read_split(inputs_dir, split, self.classes, self.spec)


@challenge("folder", from_inputs=True)
def folder_challenge(name: str, inputs_dir: Path) -> FolderChallenge:
    """Return the challenge of the images in `inputs_dir`; its classes are the folders of train, sorted.

    Raises UserError for folders that cannot be classes, and for fewer than two classes.
    """
    if not inputs_dir.is_dir():
        raise MissingFileError(f"{inputs_dir} does not exist. docs/challenges.md says what goes there.")
    path = inputs_dir / SPEC_FILE
    spec = read_spec(path, FolderSpec) if os.path.lexists(path) else FolderSpec()
    train, unsorted = list_images(split_dir(inputs_dir, "train"))
    require_classes(split_dir(inputs_dir, "train"), train, unsorted)
    counts = {name: len(train[name]) for name in sorted(train)}
    return FolderChallenge(
        name=name,
        title=spec.title,
        train_counts=counts,
        train_images=sum(counts.values()),
        splits=splits_of(inputs_dir) or ("train",),
        recipes=DEFAULT_RECIPES["single_label"],
        id_column="image",
        channels=spec.channels,
        task="single_label",
        metric=spec.metric or DEFAULT_METRIC["single_label"],
        strict_patients=True,
        spec=spec,
    )


def splits_of(inputs_dir: Path) -> tuple[str, ...]:
    """Return the splits that have a folder. Raises UserError for another split name and for other folders."""
    names = [name for name, is_dir in list_folder(inputs_dir) if is_dir]
    splits = tuple(split for split in SPLITS if split in names)
    for name in names:
        meant = SPLIT_NAMES.get(name.casefold(), name.casefold())
        if meant in SPLITS and name not in SPLITS:
            raise UserError(
                f"{inputs_dir} has a folder {name!r}, but the names of the splits are {listing(SPLITS)}. "
                f"Rename it to {meant!r}, or create a link with that name."
            )
    if splits and (others := sorted(set(names) - set(splits))):
        raise UserError(
            f"{inputs_dir} has folders next to {listing(splits)}: {listing(others)}. "
            "Move class folders into the splits, and all other folders out of it."
        )
    if splits and "train" not in splits:
        raise UserError(f"{inputs_dir} has {listing(splits)}, but no folder 'train'.")
    return splits


def split_dir(inputs_dir: Path, split: str) -> Path:
    """Return the folder with the images of a split."""
    return inputs_dir / split if splits_of(inputs_dir) else inputs_dir


def list_folder(folder: Path) -> list[tuple[str, bool]]:
    """Return the sorted names in a folder, and whether each is a folder. Skips hidden files, follows links.

    Raises UserError for a name with control characters, and for a folder that cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            named = sorted(
                (entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            )
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}. Fix that.") from error
    if strange := [name for name, _ in named if not name.isprintable()]:
        raise UserError(
            f"{folder} has names with control characters, or not in UTF-8: {listing(strange)}. Rename them."
        )
    return named


def list_images(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return image files per class folder, and image files outside class folders.

    Raises UserError if a class folder contains anything other than images.
    """
    entries = list_folder(folder)
    unsorted = [name for name, is_dir in entries if not is_dir and is_image(name)]
    inside = {name: list_folder(folder / name) for name, is_dir in entries if is_dir}
    strange = [
        f"{name}/{file}"
        for name, files in inside.items()
        for file, is_dir in files
        if is_dir or not is_image(file)
    ]
    if strange:
        raise UserError(
            f"{folder}: class folders must contain only images that end in {listing(SUFFIXES)}, "
            f"but see {listing(strange)}. Move or convert these files."
        )
    return {name: [file for file, _ in files] for name, files in inside.items()}, unsorted


def is_image(name: str) -> bool:
    """Return whether the file name ends in .png, .jpg or .jpeg, in any case."""
    return name.lower().endswith(SUFFIXES)


def require_classes(folder: Path, by_class: dict[str, list[str]], unsorted: list[str]) -> None:
    """Raise UserError unless train has two or more classes, all with images, and no images outside them."""
    if unsorted:
        raise UserError(
            f"{folder} has images outside class folders: {listing(unsorted)}. "
            "Only dev and test can have images without a class."
        )
    if empty := sorted(name for name, files in by_class.items() if not files):
        raise UserError(f"{folder} has class folders without images: {listing(empty)}. Fill or remove them.")
    if len(by_class) < 2:
        found = f"only the class {next(iter(by_class))!r}" if by_class else "no class folder"
        raise UserError(f"{folder} has {found}: make one folder with images for each of two or more classes.")
    if reserved := sorted(set(by_class) & set(RESERVED_COLUMNS)):
        raise UserError(f"{folder} has a class with the reserved name {listing(reserved)}. Rename it.")


def read_split(inputs_dir: Path, split: str, classes: tuple[str, ...], spec: FolderSpec) -> pd.DataFrame:
    """Return the table of a split (index image_id): one-hot, or unlabelled without class folders.

    Raises UserError for wrong folders, for no image, and for file names without a patient.
    """
    folder = split_dir(inputs_dir, split)
    by_class, unsorted = list_images(folder)
    if split == "train":
        require_classes(folder, by_class, unsorted)
    require_known_classes(folder, by_class, classes)
    if by_class and unsorted:
        raise UserError(
            f"{folder} has class folders, but also images without a class: {listing(unsorted)}. "
            "Sort all images into class folders, or none."
        )
    class_of_image = {f"{name}/{file}": name for name, files in by_class.items() for file in files}
    image_id = pd.Index([*class_of_image, *unsorted], name="image_id", dtype="str")
    if image_id.empty:
        raise UserError(f"{folder} has no images.")
    labels = np.array([[name == known for known in classes] for name in class_of_image.values()], np.float32)
    labels = labels if class_of_image else np.full((len(unsorted), len(classes)), np.nan, np.float32)
    prefix = "" if folder == inputs_dir else f"{split}/"
    metadata = {
        "patient": parse_patients(folder, image_id, spec.patient),
        "study": image_id,
        "view": "unknown",
        "path": prefix + image_id,
    }
    return pd.concat(
        [pd.DataFrame(metadata, image_id), pd.DataFrame(labels, image_id, list(classes))], axis=1
    )


def require_known_classes(folder: Path, by_class: Iterable[str], classes: tuple[str, ...]) -> None:
    """Raise UserError for classes that train does not have."""
    if unknown := [name for name in by_class if name not in classes]:
        matches = {name: closest_match(name, classes) for name in unknown}
        shown = listing(
            f"{name!r} (did you mean {match!r}?)" if match else repr(name) for name, match in matches.items()
        )
        raise UserError(f"{folder} has classes that are not in train: {shown}. Rename or remove them.")


def parse_patients(folder: Path, image_id: pd.Index, pattern: str | None) -> pd.Series:
    """Return the first group of `pattern` in each file name (index = image_id); all NA without a pattern.

    Raises UserError for names that do not match.
    """
    if pattern is None:
        return pd.Series(pd.NA, image_id, dtype="string")
    matches = (re.search(pattern, name.rpartition("/")[2]) for name in image_id)
    found = pd.Series([match.group(1) if match else None for match in matches], image_id, dtype="string")
    if (wrong := image_id[found.fillna("") == ""]).size:
        raise UserError(
            f"{folder}: the key 'patient' of {SPEC_FILE}, {pattern!r}, does not match the names of "
            f"{len(wrong):,} of {len(image_id):,} images: {listing(wrong)}. Correct the regular expression."
        )
    return found
