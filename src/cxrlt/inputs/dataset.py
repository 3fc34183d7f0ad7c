"""Data sets and loaders whose batches depend only on (seed, epoch, image id).

The number of workers or processes and interruptions change nothing. The index of an item is (epoch, draw),
so that worker processes know the epoch.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from cxrlt.errors import UserError
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.features import FeatureCache, FeatureReader
from cxrlt.inputs.loader_workers import init_worker
from cxrlt.inputs.mixing import Mix, Mixing
from cxrlt.inputs.packed import rows_of_ids

Item = tuple[int, int]
"""Index of an item: (epoch, draw).

A draw is row + n_rows * copy: copy 0 is the first time that an epoch uses the row, copy 1 the second time.
"""
Inputs = dict[str, torch.Tensor]
"""Inputs of a model. For single images: {"images": uint8 (b, channels, size, size)}; items have no b."""


class ImageReader:
    """Read images of a cache and augment them; augmentation depends only on (seed, epoch, image id, copy).

    Cached images larger than `size` are centre-cropped to size x size, before `transform`. Raises UserError
    if the cache lacks an id, ValueError if the cached images are smaller than `size`.
    """

    name = "images"

    def __init__(
        self, cache: ImageCache, ids: Sequence[str], seed: int, transform: Transform | None, size: int | None
    ) -> None:
        self.size = size or cache.size
        if self.size > cache.size:
            raise ValueError(f"cannot crop {size} px from cached images of {cache.size} px")
        self.cache = cache
        self.cache_rows = cache.rows_of(ids)
        self.id_hashes = np.fromiter((hash64(image_id.encode()) for image_id in ids), np.uint64, len(ids))
        self.seed = seed
        self.transform = transform
        margin = (cache.size - self.size) // 2
        self.window = slice(margin, margin + self.size)

    def read(self, row: int, epoch: int, copy: int) -> torch.Tensor:
        """Return the augmented image of a row: uint8 (channels, size, size)."""
        return to_chw_tensor(self.pixels(row, self.image_seed(row, epoch, copy)))

    def pixels(self, row: int, seed: int) -> np.ndarray:
        """Return the image of a row, augmented with `seed`: uint8 (size, size) or (size, size, 3)."""
        # copy first: a rotation would read the memory map in scattered order
        image = np.array(self.cache.images[self.cache_rows[row], self.window, self.window])
        return image if self.transform is None else self.transform(image, seed)

    def image_seed(self, row: int, epoch: int, copy: int) -> int:
        """Return the augmentation seed, which depends only on (seed, epoch, image id, copy)."""
        image = struct.pack("<qqQ", self.seed, epoch, int(self.id_hashes[row]))
        return hash64(image + struct.pack("<q", copy) if copy else image)


def make_reader(
    cache: ImageCache | FeatureCache,
    ids: Sequence[str],
    seed: int,
    transform: Transform | None,
    size: int | None,
) -> ImageReader | FeatureReader:
    """Return a reader of the rows of these ids. `seed`, `transform` and `size` are for images only."""
    if isinstance(cache, FeatureCache):
        return FeatureReader(cache, ids)
    return ImageReader(cache, ids, seed, transform, size)


class LabelledDataset(Dataset):
    """Base class of all data sets: rows with float32 `targets` (n, n_classes).

    `row_of` (index image_id) is the row of every predicted image.
    """

    def __init__(self, row_of: pd.Series, targets: np.ndarray) -> None:
        self.row_of = row_of
        self.targets = torch.tensor(np.ascontiguousarray(targets, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def ids(self) -> pd.Index:
        """Ids of the predicted images."""
        return self.row_of.index

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each image: int64 (n_ids,). Raises UserError for unknown ids."""
        return rows_of_ids(self.row_of, ids, "Not in this data set")

    def targets_of(self, epoch: int, draws: np.ndarray) -> torch.Tensor:
        """Return the targets of these draws (b,): float32 (b, n_classes). Reads no image."""
        return self.targets[draws % len(self)]


class XRayDataset(LabelledDataset):
    """Single images. Item: {"images": uint8 (channels, size, size)}, float32 targets (n_classes,), row.

    `targets` (n, n_classes) has one row per id. For images see ImageReader; `mixing` (mixup, cutmix, mosaic)
    combines images after augmentation. With a feature cache the inputs are {"features": float32 (t, d)},
    without augmentation. Raises ValueError if ids and targets differ in number, or if images and `size` do
    not fit.
    """

    def __init__(
        self,
        cache: ImageCache | FeatureCache,
        ids: Sequence[str],
        targets: np.ndarray,
        *,
        seed: int = 0,
        transform: Transform | None = None,
        size: int | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        if targets.shape[:1] != (len(ids),):
            raise ValueError(f"{len(ids)} ids but targets of shape {targets.shape}")
        super().__init__(pd.Series(np.arange(len(ids)), index=pd.Index(ids)), targets)
        self.reader = make_reader(cache, ids, seed, transform, size)
        self.mixing = mixing

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        """Return inputs, targets (n_classes,) and row of item (epoch, draw)."""
        epoch, draw = item
        copy, row = divmod(draw, len(self))
        mix = self._sample_mix(epoch, draw)
        if mix is None:
            return {self.reader.name: self.reader.read(row, epoch, copy)}, self.targets[row], row
        seed = self.augmentation_seed(epoch, draw)
        # the seed depends on the position, as a row may be mixed with itself
        seeds = [hash64(struct.pack("<Qq", seed, position)) for position in range(len(mix.rows))]
        reader = self._image_reader()
        parts = [reader.pixels(*part) for part in zip(mix.rows, seeds, strict=True)]
        if len(parts[0]) != reader.size:
            raise ValueError(f"cannot mix images of {len(parts[0])} px at {reader.size} px")
        return {"images": to_chw_tensor(mix.image(parts))}, self._mixed_targets(mix), row

    def augmentation_seed(self, epoch: int, draw: int) -> int:
        """Return the augmentation seed, which depends only on (seed, epoch, image id, copy)."""
        copy, row = divmod(draw, len(self))
        return self._image_reader().image_seed(row, epoch, copy)

    def targets_of(self, epoch: int, draws: np.ndarray) -> torch.Tensor:
        """Return the targets of these draws (b,), mixed ones included: float32 (b, n_classes)."""
        targets = super().targets_of(epoch, draws).clone()
        if self.mixing is not None:
            for position, draw in enumerate(draws.tolist()):
                mix = self._sample_mix(epoch, draw)
                if mix is not None:
                    targets[position] = self._mixed_targets(mix)
        return targets

    def _sample_mix(self, epoch: int, draw: int) -> Mix | None:
        if self.mixing is None:
            return None
        seed = hash64(struct.pack("<Q", self.augmentation_seed(epoch, draw)) + b"mix")
        return self.mixing.sample(seed, draw % len(self), len(self), self._image_reader().size)

    def _image_reader(self) -> ImageReader:
        assert isinstance(self.reader, ImageReader), "features are neither augmented nor mixed"
        return self.reader

    def _mixed_targets(self, mix: Mix) -> torch.Tensor:
        assert self.mixing is not None
        return torch.from_numpy(self.mixing.targets(mix, self.targets[mix.rows].numpy()))


def micro_batches_of_rank(
    batch: np.ndarray, rank: int, world_size: int, max_batch_per_device: int, min_micro_batch_size: int = 1
) -> list[np.ndarray]:
    """Return the micro-batches of process `rank`; over all ranks every row of `batch` (b,) is used once.

    All ranks get the same number of micro-batches and none is empty, because SyncBatchNorm waits for every
    rank. Micro-batches of fewer than `min_micro_batch_size` rows are avoided, even if others then exceed
    `max_batch_per_device`. Raises UserError if the batch is too small for the number of processes.
    """
    largest_share, smallest_share = -(-len(batch) // world_size), len(batch) // world_size
    n_micro = -(-largest_share // max_batch_per_device)
    if min_micro_batch_size > 1:
        n_micro = min(n_micro, max(smallest_share // min_micro_batch_size, 1))
    if smallest_share < n_micro:
        raise UserError(
            f"A batch of {len(batch)} images cannot be split evenly over {world_size} processes with at most "
            f"{max_batch_per_device} at a time. Increase optim.batch_size or optim.max_batch_per_device, "
            f"or use fewer processes."
        )
    return np.array_split(np.array_split(batch, world_size)[rank], n_micro)


@dataclass(frozen=True)
class ItemBatches:
    """A batch sampler: the items of these batches of draws, made one batch at a time to save memory."""

    epoch: int
    batches: Sequence[np.ndarray]

    def __iter__(self) -> Iterator[list[Item]]:
        return ([(self.epoch, draw) for draw in batch.tolist()] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_loader(
    dataset: LabelledDataset,
    epoch: int,
    micro_batches: Sequence[np.ndarray],
    n_workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Return an `item_loader` over these micro-batches, int64 (n_draws,) each, of one epoch."""
    return item_loader(dataset, ItemBatches(epoch, micro_batches), n_workers, pin_memory)


def item_loader(
    dataset: LabelledDataset, batches: Iterable[list[Item]], n_workers: int, pin_memory: bool = False
) -> DataLoader:
    """Return a loader of batches (Inputs, float32 targets (b, n_classes), int64 rows (b,)), in this order.

    Exceptions of workers are raised here, so that no batch is skipped or repeated. The global random state
    is not changed.
    """
    cv2.setNumThreads(0)  # a worker forked while OpenCV has threads may deadlock
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=n_workers,
        pin_memory=pin_memory,
        worker_init_fn=init_worker,
        generator=torch.Generator(),
    )


def move_to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs moved to `device`; shapes stay the same."""
    return {name: values.to(device, non_blocking=True) for name, values in inputs.items()}


def to_chw_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert an image (h, w) or (h, w, channels) to a tensor (channels, h, w)."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def hash64(data: bytes) -> int:
    """Return 64 bits of BLAKE2b, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
