"""Batches that depend on (seed, epoch, image id) alone: not on workers, processes or interruptions.

An item is asked for by (epoch, draw), so that the epoch reaches worker processes with the row itself.
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
"""(epoch, draw); a draw is row + n_rows * copy, copy 0 being the first time a row comes in an epoch."""
Inputs = dict[str, torch.Tensor]
"""What a model takes: for single images {"images": uint8 (b, channels, size, size)}; items lack the b."""


class ImageReader:
    """Images of a cache, uint8 (channels, size, size), augmented by (seed, epoch, image id, copy) alone.

    Where the cached images are larger than `size`, the central size x size of them is used; only then comes
    `transform`, without which the image is as it is in the cache. Raises UserError if the cache lacks an id.
    """

    name = "images"

    def __init__(
        self, cache: ImageCache, ids: Sequence[str], seed: int, transform: Transform | None, size: int | None
    ) -> None:
        self.size = size or cache.size
        if self.size > cache.size:
            raise ValueError(f"no {size} px can be cut out of images of {cache.size} px")
        self.cache = cache
        self.cache_rows = cache.rows_of(ids)
        self.id_hashes = np.fromiter((hash64(image_id.encode()) for image_id in ids), np.uint64, len(ids))
        self.seed = seed
        self.transform = transform
        margin = (cache.size - self.size) // 2
        self.window = slice(margin, margin + self.size)

    def read(self, row: int, epoch: int, copy: int) -> torch.Tensor:
        return as_planes(self.pixels(row, self.seed_of(row, epoch, copy)))

    def pixels(self, row: int, seed: int) -> np.ndarray:
        """uint8 (size, size) or (size, size, 3), augmented with that seed."""
        # copied in order first: a rotated warp would read scattered places of the memory map
        image = np.array(self.cache.images[self.cache_rows[row], self.window, self.window])
        return image if self.transform is None else self.transform(image, seed)

    def seed_of(self, row: int, epoch: int, copy: int) -> int:
        """A function of (seed, epoch, image id, copy) and nothing else."""
        image = struct.pack("<qqQ", self.seed, epoch, int(self.id_hashes[row]))
        return hash64(image + struct.pack("<q", copy) if copy else image)


def reader_of(
    cache: ImageCache | FeatureCache,
    ids: Sequence[str],
    seed: int,
    transform: Transform | None,
    size: int | None,
) -> ImageReader | FeatureReader:
    """What reads the rows of these ids. Features are as they were computed: the rest is for images."""
    if isinstance(cache, FeatureCache):
        return FeatureReader(cache, ids)
    return ImageReader(cache, ids, seed, transform, size)


class LabelledRows(Dataset):
    """Rows with targets (n, n_classes): what all data sets share.

    `row_of` says of every image (index image_id) that is predicted in which row.
    """

    def __init__(self, row_of: pd.Series, targets: np.ndarray) -> None:
        self.row_of = row_of
        self.targets = torch.tensor(np.ascontiguousarray(targets, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def ids(self) -> pd.Index:
        """The images that are predicted."""
        return self.row_of.index

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """The row in which each image is predicted (int64). Raises UserError for one that is in none."""
        return rows_of_ids(self.row_of, ids, "Not among the rows of this data set")

    def targets_of(self, epoch: int, draws: np.ndarray) -> torch.Tensor:
        """What the items of these draws have as targets: float32 (b, n_classes), without reading an image."""
        return self.targets[draws % len(self)]


class XRayDataset(LabelledRows):
    """Item (epoch, draw): {"images": uint8 (channels, size, size)}, float32 targets (n_classes,), row.

    `targets` (n, n_classes) has one row per id. For the images see ImageReader; with `mixing` some of them
    are made of several, each augmented first. Of cached features {"features": float32 (t, d)} is read as it
    is.
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
        self.reader = reader_of(cache, ids, seed, transform, size)
        self.mixing = mixing

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        epoch, draw = item
        copy, row = divmod(draw, len(self))
        mix = self._mix(epoch, draw)
        if mix is None:
            return {self.reader.name: self.reader.read(row, epoch, copy)}, self.targets[row], row
        seed = self.augmentation_seed(epoch, draw)
        # by its place, for a row may be mixed with itself
        seeds = [hash64(struct.pack("<Qq", seed, place)) for place in range(len(mix.rows))]
        parts = [self.reader.pixels(*part) for part in zip(mix.rows, seeds, strict=True)]
        if len(parts[0]) != self.reader.size:
            raise ValueError(f"images of {len(parts[0])} px to be mixed at {self.reader.size} px")
        return {"images": as_planes(mix.image(parts))}, self._mixed_targets(mix), row

    def augmentation_seed(self, epoch: int, draw: int) -> int:
        """A function of (seed, epoch, image id, copy) and nothing else."""
        copy, row = divmod(draw, len(self))
        return self.reader.seed_of(row, epoch, copy)

    def targets_of(self, epoch: int, draws: np.ndarray) -> torch.Tensor:
        targets = super().targets_of(epoch, draws).clone()
        if self.mixing is not None:
            for place, draw in enumerate(draws.tolist()):
                mix = self._mix(epoch, draw)
                if mix is not None:
                    targets[place] = self._mixed_targets(mix)
        return targets

    def _mix(self, epoch: int, draw: int) -> Mix | None:
        if self.mixing is None:
            return None
        seed = hash64(struct.pack("<Q", self.augmentation_seed(epoch, draw)) + b"mix")
        return self.mixing.draw(seed, draw % len(self), len(self), self.reader.size)

    def _mixed_targets(self, mix: Mix) -> torch.Tensor:
        return torch.from_numpy(self.mixing.targets(mix, self.targets[mix.rows].numpy()))


def rank_share(
    batch: np.ndarray, rank: int, world: int, max_batch_per_device: int, at_least: int = 1
) -> list[np.ndarray]:
    """The micro-batches of process `rank`: over all ranks every row of `batch` once.

    All ranks get the same number of them, none empty, for SyncBatchNorm waits for every rank in each one.
    Where one would have fewer than `at_least` rows there are fewer of them, if need be larger than
    `max_batch_per_device`. Raises UserError where the batch is too small to be shared.
    """
    largest_share, smallest_share = -(-len(batch) // world), len(batch) // world
    n_micro = -(-largest_share // max_batch_per_device)
    if at_least > 1:
        n_micro = min(n_micro, max(smallest_share // at_least, 1))
    if smallest_share < n_micro:
        raise UserError(
            f"A batch of {len(batch)} images cannot be shared evenly by {world} processes with at most "
            f"{max_batch_per_device} at a time. Raise optim.batch_size or optim.max_batch_per_device, "
            f"or use fewer processes."
        )
    return np.array_split(np.array_split(batch, world)[rank], n_micro)


@dataclass(frozen=True)
class ItemBatches:
    """The items of these batches of draws, made as they are asked for: all at once take 100 bytes a row."""

    epoch: int
    batches: Sequence[np.ndarray]

    def __iter__(self) -> Iterator[list[Item]]:
        return ([(self.epoch, draw) for draw in batch.tolist()] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_loader(
    dataset: LabelledRows,
    epoch: int,
    micro_batches: Sequence[np.ndarray],
    n_workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """The batches of these draws of one epoch, as `item_loader` gives them."""
    return item_loader(dataset, ItemBatches(epoch, micro_batches), n_workers, pin_memory)


def item_loader(
    dataset: LabelledRows, batches: Iterable[list[Item]], n_workers: int, pin_memory: bool = False
) -> DataLoader:
    """Batches (Inputs, float32 targets (b, n_classes), int64 rows (b,)) of these items, in the order given.

    What a worker raises is raised here: no batch is ever skipped or repeated. The global random state is
    left alone.
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


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same, moved to `device`."""
    return {name: values.to(device, non_blocking=True) for name, values in inputs.items()}


def as_planes(image: np.ndarray) -> torch.Tensor:
    """(h, w) or (h, w, channels) to (channels, h, w)."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
