"""The challenge `folder`: images sorted into one sub-folder per class."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import field_validator

from cxrlt.challenges.base import RESERVED, SPLITS, USUAL_METRIC, USUAL_RECIPES, Challenge
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.spec import SPEC_FILE, Spec, read_spec
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.spelling import nearest

SUFFIXES = (".png", ".jpg", ".jpeg")
# what other tools call the splits
SPLIT_NAMES = {"training": "train", "val": "dev", "valid": "dev", "validation": "dev", "testing": "test"}


class FolderSpec(Spec):
    """The keys of challenge.yaml, which need not be there."""

    patient: str | None = None
    """A regular expression whose first group is the patient in a file's name."""

    @field_validator("patient")
    @classmethod
    def _has_a_group(cls, patient: str | None) -> str | None:
        if patient is not None:
            try:
                groups = re.compile(patient).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"is no regular expression: {error}") from error
            if not groups:
                raise ValueError("needs a group in parentheses that matches the patient, as '^([0-9]+)_'")
        return patient


@dataclass(frozen=True, kw_only=True)
class FolderChallenge(Challenge):
    """Its splits are the sub-folders train, dev and test; without them everything is train.

    Ids are paths below the split's folder: unique in it, while another split may have the same ones.
    """

    spec: FolderSpec

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
        return read_split(inputs_dir, split, self.classes, self.spec)

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return self.read(split, inputs_dir).index.tolist()


@challenge("folder", from_inputs=True)
def folder_challenge(name: str, inputs_dir: Path) -> FolderChallenge:
    """The challenge of the images below `inputs_dir`; its classes are the folders of train, by name.

    Raises UserError for folders that are no classes, and for fewer than two classes.
    """
    if not inputs_dir.is_dir():
        raise MissingFileError(f"{inputs_dir} does not exist. inputs/README.md says what goes there.")
    path = inputs_dir / SPEC_FILE
    spec = read_spec(path, FolderSpec) if os.path.lexists(path) else FolderSpec()
    train, loose = list_images(split_dir(inputs_dir, "train"))
    require_classes(split_dir(inputs_dir, "train"), train, loose)
    counts = {name: len(train[name]) for name in sorted(train)}
    return FolderChallenge(
        name=name,
        title=spec.title,
        train_counts=counts,
        train_images=sum(counts.values()),
        splits=splits_of(inputs_dir) or ("train",),
        recipes=USUAL_RECIPES["single_label"],
        id_column="image",
        channels=spec.channels,
        task="single_label",
        metric=spec.metric or USUAL_METRIC["single_label"],
        strict_patients=True,
        spec=spec,
    )


def splits_of(inputs_dir: Path) -> tuple[str, ...]:
    """The splits that have a folder. Raises UserError for a split of another name and for other folders."""
    names = [name for name, is_dir in entries(inputs_dir) if is_dir]
    splits = tuple(split for split in SPLITS if split in names)
    for name in names:
        meant = SPLIT_NAMES.get(name.casefold(), name.casefold())
        if meant in SPLITS and name not in SPLITS:
            raise UserError(
                f"{inputs_dir} has a folder {name!r}: splits are called {listing(SPLITS)}. "
                f"Rename it to {meant!r}, or let a link of that name point to it."
            )
    if splits and (others := sorted(set(names) - set(splits))):
        raise UserError(
            f"{inputs_dir} has folders beside {listing(splits)}: {listing(others)}. "
            "Move classes into the splits, and anything else elsewhere."
        )
    if splits and "train" not in splits:
        raise UserError(f"{inputs_dir} has {listing(splits)}, but no folder 'train'.")
    return splits


def split_dir(inputs_dir: Path, split: str) -> Path:
    return inputs_dir / split if splits_of(inputs_dir) else inputs_dir


def entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, hidden ones left out, and whether each is a folder. Links are followed.

    Raises UserError for a name that is no line of text, and for what cannot be looked into.
    """
    try:
        with os.scandir(folder) as found:
            named = sorted((entry.name, entry.is_dir()) for entry in found if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}. Fix that.") from error
    if strange := [name for name, _ in named if not name.isprintable()]:
        raise UserError(
            f"{folder} has names with control characters, or in another encoding than UTF-8: "
            f"{listing(strange)}. Rename them."
        )
    return named


def list_images(place: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Image files by class folder, and those that lie in no class.

    Raises UserError for anything but images in a class folder.
    """
    found = entries(place)
    loose = [name for name, is_dir in found if not is_dir and is_image(name)]
    inside = {name: entries(place / name) for name, is_dir in found if is_dir}
    strange = [
        f"{name}/{file}"
        for name, files in inside.items()
        for file, is_dir in files
        if is_dir or not is_image(file)
    ]
    if strange:
        raise UserError(
            f"{place}: images lie directly in the folder of their class and end in {listing(SUFFIXES)}, "
            f"but see {listing(strange)}. Move or convert what is not so."
        )
    return {name: [file for file, _ in files] for name, files in inside.items()}, loose


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def require_classes(place: Path, by_class: dict[str, list[str]], loose: list[str]) -> None:
    if loose:
        raise UserError(
            f"{place} has images that are in no class folder: {listing(loose)}. "
            "Only those of dev and test may be without a class."
        )
    if empty := sorted(name for name, files in by_class.items() if not files):
        raise UserError(f"{place} has class folders without an image: {listing(empty)}. Fill or remove them.")
    if len(by_class) < 2:
        found = f"only the class {next(iter(by_class))!r}" if by_class else "no class folder"
        raise UserError(f"{place} has {found}: put the images of each class, two or more, into a folder.")
    if reserved := sorted(set(by_class) & set(RESERVED)):
        raise UserError(f"{place} has a class named {listing(reserved)}, a column of ours. Rename it.")


def read_split(inputs_dir: Path, split: str, classes: tuple[str, ...], spec: FolderSpec) -> pd.DataFrame:
    """The table of a split: one-hot, or without labels where its images lie in no class folder."""
    place = split_dir(inputs_dir, split)
    by_class, loose = list_images(place)
    if split == "train":
        require_classes(place, by_class, loose)
    require_known(place, by_class, classes)
    if by_class and loose:
        raise UserError(
            f"{place} has class folders and beside them images without a class: {listing(loose)}. "
            "Sort all images into classes, or none."
        )
    of_image = {f"{name}/{file}": name for name, files in by_class.items() for file in files}
    image_id = pd.Index([*of_image, *loose], name="image_id", dtype="str")
    if image_id.empty:
        raise UserError(f"{place} has no image.")
    labels = np.array([[name == known for known in classes] for name in of_image.values()], np.float32)
    labels = labels if of_image else np.full((len(loose), len(classes)), np.nan, np.float32)
    prefix = "" if place == inputs_dir else f"{split}/"
    metadata = {
        "patient": patients(place, image_id, spec.patient),
        "study": image_id,
        "view": "unknown",
        "path": prefix + image_id,
    }
    return pd.concat(
        [pd.DataFrame(metadata, image_id), pd.DataFrame(labels, image_id, list(classes))], axis=1
    )


def require_known(place: Path, by_class: Iterable[str], classes: tuple[str, ...]) -> None:
    if unknown := [name for name in by_class if name not in classes]:
        hints = {name: nearest(name, classes) for name in unknown}
        shown = listing(
            f"{name!r} (nearest: {hint!r})" if hint else repr(name) for name, hint in hints.items()
        )
        raise UserError(f"{place} has classes that train lacks: {shown}. Rename or remove them.")


def patients(place: Path, image_id: pd.Index, pattern: str | None) -> pd.Series:
    """The first group of `pattern` in every file's name. Raises UserError for names it does not fit."""
    if pattern is None:
        return pd.Series(pd.NA, image_id, dtype="string")
    matches = (re.search(pattern, name.rpartition("/")[2]) for name in image_id)
    found = pd.Series([match.group(1) if match else None for match in matches], image_id, dtype="string")
    if (wrong := image_id[found.fillna("") == ""]).size:
        raise UserError(
            f"{place}: the key 'patient' of {SPEC_FILE}, {pattern!r}, finds no patient in the names of "
            f"{len(wrong):,} of {len(image_id):,} images: {listing(wrong)}. Correct the expression."
        )
    return found
