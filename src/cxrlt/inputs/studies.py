"""Data set of studies: one row is a study with up to `max_images` images (multi-view fusion)."""

import struct
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cxrlt.challenges.base import VIEWS
from cxrlt.errors import UserError, listing
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import Inputs, Item, LabelledDataset, hash64, make_reader
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.table import study_codes

VIEW_PRIORITY = ("frontal", "unknown", "lateral")
"""Order in which evaluation uses the views of a study with more than `max_images` images."""


class StudyDataset(LabelledDataset):
    """Studies. Item (epoch, draw): inputs of one study, its float32 targets (n_classes,), its row.

    With v = `max_images`, the inputs are "images" uint8 (v, channels, size, size) or "features" float32
    (v, t, d); "views" int64 (v,), the index in VIEWS; "present" bool (v,), False for padding (zeros).

    A study is all images with the same patient and study in `table` (index image_id, columns patient, study,
    view and `classes`); an image without a study is a study of one image. Of a study with more than
    `max_images` images, evaluation uses frontal views first, then unknown, then lateral, ordered by id;
    `training` uses a random subset that depends only on (seed, epoch, study, copy). Images are augmented
    independently, as in XRayDataset.

    Rows are in the order in which studies first appear. Raises UserError if the images of a study have
    different labels, or if the cache lacks an image.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        classes: Sequence[str],
        images: ImageCache | FeatureCache,
        *,
        max_images: int,
        seed: int = 0,
        transform: Transform | None = None,
        size: int | None = None,
        training: bool = False,
    ) -> None:
        study = study_codes(table)
        first = np.unique(study, return_index=True)[1]
        targets = table[list(classes)].to_numpy(np.float32)
        _require_same_labels(table, targets, targets[first][study])
        super().__init__(pd.Series(study, index=table.index), targets[first])
        ids = table.index.tolist()
        self.reader = make_reader(images, ids, seed, transform, size)
        self.views = table["view"].map(VIEWS.index).to_numpy(np.int64)
        self.order = np.lexsort((np.array(ids), table["view"].map(VIEW_PRIORITY.index), study))
        self.starts = np.searchsorted(study[self.order], np.arange(len(first) + 1))
        self.study_hashes = _study_hashes(table.iloc[first])
        self.max_images = max_images
        self.seed = seed
        self.training = training

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        """Return inputs, targets (n_classes,) and row of item (epoch, draw)."""
        epoch, draw = item
        copy, row = divmod(draw, len(self))
        images = self.images_of(epoch, draw)
        values = torch.stack([self.reader.read(image, epoch, copy) for image in images])
        n_padding = self.max_images - len(images)
        inputs = {
            self.reader.name: torch.cat([values, values.new_zeros(n_padding, *values.shape[1:])]),
            "views": torch.from_numpy(np.pad(self.views[images], (0, n_padding))),
            "present": torch.arange(self.max_images) < len(images),
        }
        return inputs, self.targets[row], row

    def images_of(self, epoch: int, draw: int) -> np.ndarray:
        """Return the rows of the table that this draw uses: int64 (k,), k <= max_images."""
        copy, row = divmod(draw, len(self))
        images = self.order[self.starts[row] : self.starts[row + 1]]
        if len(images) <= self.max_images or not self.training:
            return images[: self.max_images]
        parts = struct.pack("<qqQq", self.seed, epoch, int(self.study_hashes[row]), copy)
        chosen = np.random.default_rng(hash64(parts)).choice(len(images), self.max_images, replace=False)
        return images[np.sort(chosen)]


def _study_hashes(table: pd.DataFrame) -> np.ndarray:
    """Return uint64 (n,): the hash of patient and study, or of the image id if the study is unknown."""
    rows = zip(table.index, table["patient"], table["study"], strict=True)
    names = (str(image) if pd.isna(study) else f"{patient}\n{study}" for image, patient, study in rows)
    return np.array([hash64(name.encode()) for name in names], np.uint64)


def _require_same_labels(table: pd.DataFrame, targets: np.ndarray, study_targets: np.ndarray) -> None:
    """Raise UserError if an image has other labels than the first image of its study."""
    differ = ((targets != study_targets) & ~(np.isnan(targets) & np.isnan(study_targets))).any(axis=1)
    if differ.any():
        raise UserError(
            f"{differ.sum():,} images have other labels than the first image of their study: "
            f"{listing(table.index[differ])}. All images of a study need the same labels. Correct the table, "
            f"or use model.fusion.max_images 1."
        )
