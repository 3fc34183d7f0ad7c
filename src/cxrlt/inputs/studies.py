"""Rows of whole studies: up to so many images of one study together."""

import struct
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cxrlt.challenges.base import VIEWS
from cxrlt.errors import UserError, listing
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.dataset import Inputs, Item, LabelledRows, hash64, reader_of
from cxrlt.inputs.features import FeatureCache
from cxrlt.inputs.table import study_codes

VIEW_ORDER = ("frontal", "unknown", "lateral")
"""Which images of a study with too many are used first in evaluation."""


class StudyDataset(LabelledRows):
    """Item (epoch, draw): inputs of one study, its float32 targets (n_classes,), its row.

    Inputs of v = `max_images` places: "images" uint8 (v, channels, size, size), or "features" float32
    (v, t, d); "views" int64 (v,), index in VIEWS; "present" bool (v,), False where a place is empty and its
    numbers are 0. The images of a study are those of one patient and study in `table` (columns patient,
    study, view and `classes`); an image without a study is one alone. With more than `max_images` of them
    evaluation takes frontal, unknown and lateral ones in this order, then by id, and `training` a random
    subset, a function of (seed, epoch, study, copy). Each image is augmented as it would be alone.

    Rows are in the order in which studies first appear. Raises UserError if images of a study differ in
    their labels, or if the cache lacks one.
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
        self.reader = reader_of(images, ids, seed, transform, size)
        self.views = table["view"].map(VIEWS.index).to_numpy(np.int64)
        self.order = np.lexsort((np.array(ids), table["view"].map(VIEW_ORDER.index), study))
        self.starts = np.searchsorted(study[self.order], np.arange(len(first) + 1))
        self.study_hashes = _study_hashes(table.iloc[first])
        self.max_images = max_images
        self.seed = seed
        self.training = training

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        epoch, draw = item
        copy, row = divmod(draw, len(self))
        images = self.images_of(epoch, draw)
        read = torch.stack([self.reader.read(image, epoch, copy) for image in images])
        empty = self.max_images - len(images)
        inputs = {
            self.reader.name: torch.cat([read, read.new_zeros(empty, *read.shape[1:])]),
            "views": torch.from_numpy(np.pad(self.views[images], (0, empty))),
            "present": torch.arange(self.max_images) < len(images),
        }
        return inputs, self.targets[row], row

    def images_of(self, epoch: int, draw: int) -> np.ndarray:
        """Rows of the table that this draw shows."""
        copy, row = divmod(draw, len(self))
        images = self.order[self.starts[row] : self.starts[row + 1]]
        if len(images) <= self.max_images or not self.training:
            return images[: self.max_images]
        parts = struct.pack("<qqQq", self.seed, epoch, int(self.study_hashes[row]), copy)
        chosen = np.random.default_rng(hash64(parts)).choice(len(images), self.max_images, replace=False)
        return images[np.sort(chosen)]


def _study_hashes(table: pd.DataFrame) -> np.ndarray:
    """uint64 (n,): of patient and study, or of the only image of a row without a study."""
    rows = zip(table.index, table["patient"], table["study"], strict=True)
    names = (str(image) if pd.isna(study) else f"{patient}\n{study}" for image, patient, study in rows)
    return np.array([hash64(name.encode()) for name in names], np.uint64)


def _require_same_labels(table: pd.DataFrame, targets: np.ndarray, of_study: np.ndarray) -> None:
    """Raises UserError naming images whose labels are not those that their study begins with."""
    differ = ((targets != of_study) & ~(np.isnan(targets) & np.isnan(of_study))).any(axis=1)
    if differ.any():
        raise UserError(
            f"{differ.sum():,} images have other labels than the first image of their study: "
            f"{listing(table.index[differ])}. Images of one study need the same labels: "
            f"take model.fusion.max_images 1."
        )
