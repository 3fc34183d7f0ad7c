"""The packed cache: every radiograph decoded once, then memory-mapped.

A folder `<challenge>-<split>-<key>` holds images.npy (n, size, size) uint8, or (n, size, size, 3) in the
order red, green, blue where a challenge has three channels; ids.csv with the image id of each row;
thumbs.npy (n, 16, 16) uint8, small grey copies of all images; hashes.npy (n, 32) uint8, the SHA-256 of the
bytes that a row was decoded from; sources.npy (n, 4) int64, the stat of the file that they were read from
(see sources.py; zeros: not yet); quarantine.csv, and meta.json. A row counts only once its stat is in
sources.npy, which is written after the others are on disk; so a build may be killed at any moment. A file
whose stat differs is hashed again, and decoded again if its bytes differ.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.errors import UserError
from cxrlt.inputs.decode import DECODERS
from cxrlt.inputs.inverted import THUMB
from cxrlt.inputs.packed import META, Arrays, DamagedError, PackedRows, read_csv, read_packed
from cxrlt.inputs.sources import HASH_BYTES, STAT, hex_of

EMPTY_QUARANTINE = (
    pd.DataFrame(columns=["image_id", "path", *STAT, "sha256", "reason"])
    .astype(dict.fromkeys(STAT, np.int64))
    .set_index("image_id")
)
"""Of most caches, and made once: it is asked for many times."""
CHANNELS = {decoder: channels for channels, decoder in DECODERS.items()}


@dataclass(frozen=True, eq=False)
class ImageCache(PackedRows):
    """A finished cache: `cache[image_id]` is uint8 of shape (size, size), or (size, size, 3) in colour.

    `rows` and `ids` are those of the readable images, without the `quarantined` ones.
    """

    size: int
    quarantined: tuple[str, ...]
    absent = "Not in the image cache {}, whose quarantine.csv lists images that cannot be read"

    @cached_property
    def images(self) -> np.ndarray:
        """All rows, read-only, uint8 (n, size, size) or (n, size, size, 3)."""
        return self.array("images.npy")

    @property
    def channels(self) -> int:
        return 3 if self.images.ndim == 4 else 1

    @cached_property
    def hashes(self) -> np.ndarray:
        """Of the bytes that each row was decoded from, read-only, uint8 (n, 32)."""
        return self.array("hashes.npy")

    @property
    def thumbs(self) -> np.ndarray:
        """Small grey copies of the images `ids`, uint8 (n, 16, 16)."""
        return self.array("thumbs.npy")[self.rows.to_numpy()]

    def hash_of(self, ids: Iterable[str]) -> pd.Series:
        """SHA-256 of the bytes that each of these images was decoded from, in hexadecimal.

        Index image_id. Raises UserError for ids that are not in the cache.
        """
        index = pd.Index(ids, name="image_id")
        return pd.Series(hex_of(self.hashes[self.rows_of(index)]), index, dtype=object)

    def all_hashes(self) -> pd.Series:
        """As `hash_of`, of every image, unreadable ones included; None where there was no file."""
        unreadable = read_quarantine(self.directory)["sha256"].reindex(list(self.quarantined))
        return pd.concat([self.hash_of(self.ids), unreadable.replace("", None).astype(object)])

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self.images[self.rows_of([image_id])[0]]

    def __reduce__(self) -> tuple:
        return open_cache, (self.directory,)


def open_cache(directory: Path) -> ImageCache:
    """The finished cache in `directory`.

    Raises UserError where there is none, where its files are damaged, and where some rows are not done.
    """
    if not (directory / META).is_file():
        raise UserError(f"{directory} holds no image cache. Make it with: cxrlt cache CHALLENGE --size N")
    try:
        meta, ids = read_parts(directory)
    except DamagedError as error:
        raise UserError(
            f"The image cache {directory} is damaged ({error}): cxrlt cache builds it again."
        ) from error
    unread = ~is_done(np.load(directory / "sources.npy"))
    absent = unread & ids.isin(read_quarantine(directory).index)
    n_left = np.count_nonzero(unread & ~absent)
    if n_left:
        raise UserError(
            f"The image cache {directory} lacks {n_left:,} of {len(ids):,} images. "
            f"Finish it with: cxrlt cache {meta['challenge']} --size {meta['size']}"
        )
    rows = pd.Series(np.flatnonzero(~absent), index=ids[~absent])
    return ImageCache(directory, rows, meta["size"], tuple(ids[absent]))


def arrays_of(n_images: int, size: int, channels: int) -> Arrays:
    """What a cache consists of."""
    square = (size, size) if channels == 1 else (size, size, channels)
    return {
        "images.npy": (np.uint8, (n_images, *square)),
        "thumbs.npy": (np.uint8, (n_images, THUMB, THUMB)),
        "hashes.npy": (np.uint8, (n_images, HASH_BYTES)),
        "sources.npy": (np.int64, (n_images, len(STAT))),
    }


def read_parts(directory: Path) -> tuple[dict, pd.Index]:
    """meta.json and the ids of all rows. Raises DamagedError unless the files fit together."""

    def arrays(meta: dict) -> Arrays:
        _ = meta["challenge"], meta["split"], meta["images"]
        read_quarantine(directory)
        return arrays_of(meta["n_images"], meta["size"], CHANNELS[meta["decoder"]])

    return read_packed(directory, arrays)


def caches_of(cache_dir: Path, challenge: str) -> Iterator[tuple[Path, dict, pd.Index]]:
    """Folder, meta.json and ids of every cache of a challenge that is begun and not damaged."""
    for path in sorted(cache_dir.glob(f"{challenge}-*/{META}")):
        try:
            meta, ids = read_parts(path.parent)
        except DamagedError:
            continue
        if meta["challenge"] == challenge:
            yield path.parent, meta, ids


def is_done(sources: np.ndarray) -> np.ndarray:
    """bool (n,): which rows of sources.npy are of an image that is decoded; no image has 0 bytes."""
    return sources[:, 0] != 0


def cache_path(
    files: pd.Series,
    size: int,
    cache_dir: Path,
    challenge: str,
    split: str,
    images_dir: Path,
    channels: int = 1,
) -> Path:
    """Folder of the cache of these files (index image_id), in any order, at this size.

    Its name is a function of ids, of where the files lie below `images_dir`, of where that folder really
    lies, and of the decoder of these channels: data sets with the same ids never share a cache.
    """
    identity = hashlib.sha256(json.dumps([DECODERS[channels], size, real_path(images_dir)]).encode())
    start = str(images_dir.absolute()).rstrip(os.sep) + os.sep
    files = files.sort_index()
    pairs = zip(files.index.tolist(), files.tolist(), strict=True)
    lines = "".join(f"\n{image_id}\0{file.removeprefix(start)}" for image_id, file in pairs)
    identity.update(lines.encode(errors="surrogateescape"))
    return cache_dir / f"{challenge}-{split}-{identity.hexdigest()[:12]}"


def real_path(images_dir: Path) -> str:
    """One name for a folder, whichever links lead to it."""
    return os.fsencode(os.path.realpath(images_dir)).decode(errors="backslashreplace")


def read_quarantine(directory: Path) -> pd.DataFrame:
    """Unreadable images: index image_id; path, STAT of the file when it was tried, sha256, reason."""
    path = directory / "quarantine.csv"
    if not path.is_file():
        return EMPTY_QUARANTINE
    frame = read_csv(path)[["image_id", *EMPTY_QUARANTINE]]
    return frame.astype(dict.fromkeys(STAT, np.int64)).set_index("image_id")
