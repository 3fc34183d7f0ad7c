"""The COVID-19 Radiography Database: chest radiographs in one folder per class, without a table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges.base import DEFAULT_METRIC, DEFAULT_RECIPES, Challenge
from cxrlt.challenges.csv_file import DOWNLOAD_HINT
from cxrlt.challenges.folder import is_image, list_folder
from cxrlt.challenges.registry import challenge
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.spelling import closest_match

COUNTS = {"COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}
"""Positives among the 21,165 training images, in the alphabetical order of the folders."""
DATASET_FOLDER = "COVID-19_Radiography_Dataset"
SOURCES = (
    "class = source: each class comes from other hospitals and collections (COVID: BIMCV and web pages; "
    "Normal, Lung_Opacity: mostly RSNA, that is NIH ChestX-ray14; Viral Pneumonia: children only). A model "
    "can recognise the source, so accuracy says little about the disease"
)


@dataclass(frozen=True, kw_only=True)
class CovidRadiography(Challenge):
    """Images in `<class>/images` or `<class>`, or in one folder as `<class>-<number>`; masks are ignored.

    There is no official split, so all images are train. Ids are file names.
    """

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        root = DATASET_FOLDER if (inputs_dir / DATASET_FOLDER).is_dir() else "."
        class_of = self._images_in_class_folders(inputs_dir, root) | self._images_by_name(inputs_dir, root)
        if not class_of:
            raise MissingFileError(
                f"{inputs_dir} has no images in folders named {listing(self.classes)}. {DOWNLOAD_HINT}"
            )
        image_id = pd.Index([Path(path).name for path in class_of], name="image_id", dtype="str")
        if (twice := image_id[image_id.duplicated()]).size:
            raise UserError(f"{inputs_dir} has several images named {listing(twice)}. Keep one of each.")
        labels = np.array([[name == known for known in self.classes] for name in class_of.values()])
        metadata = {
            "patient": pd.Series(pd.NA, image_id, dtype="string"),
            "study": image_id,
            "view": "unknown",
            "path": list(class_of),
        }
        class_labels = pd.DataFrame(labels.astype(np.float32), image_id, list(self.classes))
        return pd.concat([pd.DataFrame(metadata, image_id), class_labels], axis=1)

    def _images_in_class_folders(self, inputs_dir: Path, root: str) -> dict[str, str]:
        """Return class by path. Raises UserError for a folder that seems to be a class of another name."""
        entries = list_folder(inputs_dir / root) if inputs_dir.is_dir() else []
        folders = [name for name, is_dir in entries if is_dir]
        for name in set(self.classes) - set(folders):
            if meant := closest_match(name, set(folders) - set(self.classes)):
                raise UserError(f"{inputs_dir / root / meant}: did you mean {name!r}? Then rename it.")
        found: dict[str, str] = {}
        for name in self.classes:
            for folder in (f"{root}/{name}/images", f"{root}/{name}"):
                if (inputs_dir / folder).is_dir():
                    found |= dict.fromkeys(_list_images(inputs_dir, folder), name)
                    break
        return found

    def _images_by_name(self, inputs_dir: Path, root: str) -> dict[str, str]:
        """Return class by path, for copies without class folders. Raises UserError for another name."""
        folders = [folder for folder in (root, f"{root}/images") if (inputs_dir / folder).is_dir()]
        paths = [path for folder in folders for path in _list_images(inputs_dir, folder)]
        class_of = {path: Path(path).name.rpartition("-")[0] for path in paths}
        if wrong := [path for path, name in class_of.items() if name not in self.classes]:
            raise UserError(
                f"{inputs_dir} has images outside class folders whose names are not like "
                f"{self.classes[0]}-1.png: {listing(wrong)}. Move them into class folders, or away."
            )
        return class_of

    def notes(self, inputs_dir: Path) -> list[str]:
        """See `Challenge.notes`."""
        return [SOURCES]


def _list_images(inputs_dir: Path, folder: str) -> list[str]:
    """Return the paths, relative to `inputs_dir`, of the images directly in a folder."""
    names = [name for name, is_dir in list_folder(inputs_dir / folder) if not is_dir and is_image(name)]
    return [Path(folder, name).as_posix() for name in names]


@challenge("covid-radiography")
def covid_radiography(name: str) -> CovidRadiography:
    """Return the COVID-19 Radiography Database: 4 classes, greyscale."""
    return CovidRadiography(
        name=name,
        title="COVID-19 Radiography Database",
        train_counts=COUNTS,
        train_images=21_165,
        splits=("train",),
        recipes=DEFAULT_RECIPES["single_label"],
        id_column="image",
        task="single_label",
        metric=DEFAULT_METRIC["single_label"],
        group_duplicates=True,
        group_word="distinct image",
        image_sources={"bimcv": (), "rsna": (), "nih14": ()},
    )
