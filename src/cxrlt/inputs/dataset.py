"""Batches that depend on (seed, epoch, image id) alone: not on workers, processes or interruptions.

An item is asked for by (epoch, draw), so that the epoch reaches worker processes with the row itself.
"""

import hashlib
import struct
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from cxrlt.errors import UserError
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache

Item = tuple[int, int]
"""(epoch, draw); a draw is row + n_rows * copy, copy 0 being the first time a row comes in an epoch."""
Inputs = dict[str, torch.Tensor]
"""What a model takes: for single images {"images": uint8 (b, channels, size, size)}; items lack the b."""


class XRayDataset(Dataset):
    """Item (epoch, draw): {"images": uint8 (channels, size, size)}, float32 targets (n_classes,), row.

    `targets` (n, n_classes) has one row per id. Where the cached images are larger than `size`, the central
    size x size of them is used; only then comes `transform`, without which the image is as it is in the
    cache. Raises UserError if the cache lacks an id.
    """

    def __init__(
        self,
        cache: ImageCache,
        ids: Sequence[str],
        targets: np.ndarray,
        *,
        seed: int = 0,
        transform: Transform | None = None,
        size: int | None = None,
    ) -> None:
        if targets.shape[:1] != (len(ids),):
            raise ValueError(f"{len(ids)} ids but targets of shape {targets.shape}")
        if size is not None and size > cache.size:
            raise ValueError(f"no {size} px can be cut out of images of {cache.size} px")
        self.cache = cache
        self.ids = pd.Index(ids)
        self.cache_rows = cache.rows_of(ids)
        self.id_hashes = np.array([_hash64(image_id.encode()) for image_id in ids], dtype=np.uint64)
        self.targets = torch.tensor(np.ascontiguousarray(targets, dtype=np.float32))
        self.seed = seed
        self.transform = transform
        margin = (cache.size - (size or cache.size)) // 2
        self.window = slice(margin, margin + (size or cache.size))

    def __len__(self) -> int:
        return len(self.cache_rows)

    def __getitem__(self, item: Item) -> tuple[Inputs, torch.Tensor, int]:
        epoch, draw = item
        row = draw % len(self)
        image = np.array(self.cache.images[self.cache_rows[row], self.window, self.window])
        if self.transform is not None:
            image = self.transform(image, self.augmentation_seed(epoch, draw))
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        return {"images": torch.from_numpy(np.ascontiguousarray(planes))}, self.targets[row], row

    def augmentation_seed(self, epoch: int, draw: int) -> int:
        """A function of (seed, epoch, image id, copy) and nothing else."""
        copy, row = divmod(draw, len(self))
        image = struct.pack("<qqQ", self.seed, epoch, int(self.id_hashes[row]))
        return _hash64(image + struct.pack("<q", copy) if copy else image)

    def targets_of(self, epoch: int, draws: np.ndarray) -> torch.Tensor:
        """What the items of these draws have as targets: float32 (b, n_classes), without reading an image."""
        return self.targets[draws % len(self)]

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each id (int64)."""
        return self.ids.get_indexer_for(ids)


def rank_share(batch: np.ndarray, rank: int, world: int, max_batch_per_device: int) -> list[np.ndarray]:
    """The micro-batches of process `rank`: over all ranks every row of `batch` once.

    All ranks get the same number of them, none empty, for SyncBatchNorm waits for every rank in each one.
    Raises UserError where the batch is too small for that.
    """
    largest_share, smallest_share = -(-len(batch) // world), len(batch) // world
    n_micro = -(-largest_share // max_batch_per_device)
    if smallest_share < n_micro:
        raise UserError(
            f"A batch of {len(batch)} images cannot be shared evenly by {world} processes with at most "
            f"{max_batch_per_device} at a time. Raise optim.batch_size or optim.max_batch_per_device, "
            f"or use fewer processes."
        )
    return np.array_split(np.array_split(batch, world)[rank], n_micro)


def make_loader(
    dataset: XRayDataset,
    epoch: int,
    micro_batches: Sequence[np.ndarray],
    n_workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches (Inputs, float32 targets (b, n_classes), int64 rows (b,)) of these draws, in the order given.

    What a worker raises is raised here: no batch is ever skipped or repeated. The global random state is
    left alone.
    """
    _without_opencv_threads()  # a worker forked beside OpenCV's threads may wait for them for ever
    items = [[(epoch, draw) for draw in batch.tolist()] for batch in micro_batches]
    return DataLoader(
        dataset,
        batch_sampler=items,
        num_workers=n_workers,
        pin_memory=pin_memory,
        worker_init_fn=_without_opencv_threads,
        generator=torch.Generator(),
    )


def evaluation_loader(
    dataset: XRayDataset, batch_size: int, n_workers: int, pin_memory: bool = False
) -> DataLoader:
    """Every row once, in order, in batches of at most `batch_size`."""
    rows = np.arange(len(dataset))
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return make_loader(dataset, 0, batches, n_workers, pin_memory)


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same, moved to `device`."""
    return {name: values.to(device, non_blocking=True) for name, values in inputs.items()}


def _without_opencv_threads(worker: int = 0) -> None:
    cv2.setNumThreads(0)


def _hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
