"""The image cache: every radiograph is decoded once and then memory-mapped.

A folder `<challenge>-<split>-<key>` contains, with one row per image:

- images.npy (n, size, size) uint8, or (n, size, size, 3) RGB if the challenge has three channels;
- ids.csv, the image ids;
- thumbs.npy (n, 16, 16) uint8, grey thumbnails;
- hashes.npy (n, 32) uint8, the SHA-256 of the file's bytes;
- sources.npy (n, 4) int64, the stat of the file (see file_stats.py); zeros if the row is not decoded yet;
- quarantine.csv, the unreadable images, and meta.json.

The row of sources.npy is written after the other arrays are on disk, so a build can be killed at any moment.
A file whose stat has changed is hashed again, and decoded again if its bytes have changed.
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
from cxrlt.inputs.file_stats import HASH_BYTES, STAT_FIELDS, to_hex
from cxrlt.inputs.inverted import THUMB_SIZE
from cxrlt.inputs.packed import META, ArraySpecs, DamagedError, PackedRows, read_csv, read_packed

EMPTY_QUARANTINE = (
    pd.DataFrame(columns=["image_id", "path", *STAT_FIELDS, "sha256", "reason"])
    .astype(dict.fromkeys(STAT_FIELDS, np.int64))
    .set_index("image_id")
)
"""The quarantine of a cache without unreadable images."""
CHANNELS_OF_DECODER = {decoder: channels for channels, decoder in DECODERS.items()}
"""Number of channels by the decoder's description in meta.json."""


@dataclass(frozen=True, eq=False)
class ImageCache(PackedRows):
    """A finished cache: `cache[image_id]` is uint8 (size, size), or (size, size, 3) for colour images.

    `rows` and `ids` contain the readable images only; `quarantined` are the ids of the others.
    """

    size: int
    quarantined: tuple[str, ...]
    not_found = "Not in the image cache {} (unreadable images are listed in its quarantine.csv)"

    @cached_property
    def images(self) -> np.ndarray:
        """Images of all rows, read-only: uint8 (n, size, size) or (n, size, size, 3)."""
        return self.array("images.npy")

    @property
    def channels(self) -> int:
        """Number of channels: 1 (grey) or 3 (RGB)."""
        return 3 if self.images.ndim == 4 else 1

    @cached_property
    def hashes(self) -> np.ndarray:
        """SHA-256 of the file of each row, read-only: uint8 (n, 32)."""
        return self.array("hashes.npy")

    @property
    def thumbs(self) -> np.ndarray:
        """Grey thumbnails of the images `ids`: uint8 (n, 16, 16)."""
        return self.array("thumbs.npy")[self.rows.to_numpy()]

    def hashes_of(self, ids: Iterable[str]) -> pd.Series:
        """Return the SHA-256 of the files of these images, in hexadecimal: index image_id.

        Raises UserError for ids that are not in the cache.
        """
        index = pd.Index(ids, name="image_id")
        return pd.Series(to_hex(self.hashes[self.rows_of(index)]), index, dtype=object)

    def all_hashes(self) -> pd.Series:
        """Return the SHA-256 of every image, also of unreadable ones (None if the file did not exist).

        Index image_id.
        """
        unreadable = read_quarantine(self.directory)["sha256"].reindex(list(self.quarantined))
        return pd.concat([self.hashes_of(self.ids), unreadable.replace("", None).astype(object)])

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the image of an id: uint8 (size, size) or (size, size, 3)."""
        return self.images[self.rows_of([image_id])[0]]

    def __reduce__(self) -> tuple:
        return open_cache, (self.directory,)


def open_cache(directory: Path) -> ImageCache:
    """Open the finished cache in `directory`.

    Raises UserError if there is no cache, if its files are damaged, or if some rows are not decoded yet.
    """
    if not (directory / META).is_file():
        raise UserError(f"{directory} contains no image cache. Build it with: cxrlt cache CHALLENGE --size N")
    try:
        meta, ids = read_cache_files(directory)
    except DamagedError as error:
        raise UserError(
            f"The image cache {directory} is damaged ({error}). Build it again with: "
            "cxrlt cache CHALLENGE --size N"
        ) from error
    not_decoded = ~is_decoded(np.load(directory / "sources.npy"))
    quarantined = not_decoded & ids.isin(read_quarantine(directory).index)
    n_missing = np.count_nonzero(not_decoded & ~quarantined)
    if n_missing:
        raise UserError(
            f"The image cache {directory} lacks {n_missing:,} of {len(ids):,} images. "
            f"Finish it with: cxrlt cache {meta['challenge']} --size {meta['size']}"
        )
    rows = pd.Series(np.flatnonzero(~quarantined), index=ids[~quarantined])
    return ImageCache(directory, rows, meta["size"], tuple(ids[quarantined]))


def array_specs(n_images: int, size: int, channels: int) -> ArraySpecs:
    """Return dtype and shape of every array of a cache, by file name."""
    image_shape = (size, size) if channels == 1 else (size, size, channels)
    return {
        "images.npy": (np.uint8, (n_images, *image_shape)),
        "thumbs.npy": (np.uint8, (n_images, THUMB_SIZE, THUMB_SIZE)),
        "hashes.npy": (np.uint8, (n_images, HASH_BYTES)),
        "sources.npy": (np.int64, (n_images, len(STAT_FIELDS))),
    }


def read_cache_files(directory: Path) -> tuple[dict, pd.Index]:
    """Return meta.json and the ids of all rows. Raises DamagedError if the files do not fit together."""

    def arrays(meta: dict) -> ArraySpecs:
        _ = meta["challenge"], meta["split"], meta["images"]
        read_quarantine(directory)
        return array_specs(meta["n_images"], meta["size"], CHANNELS_OF_DECODER[meta["decoder"]])

    return read_packed(directory, arrays)


def find_caches(cache_dir: Path, challenge: str) -> Iterator[tuple[Path, dict, pd.Index]]:
    """Yield folder, meta.json and ids of every undamaged cache of a challenge, finished or not."""
    for path in sorted(cache_dir.glob(f"{challenge}-*/{META}")):
        try:
            meta, ids = read_cache_files(path.parent)
        except DamagedError:
            continue
        if meta["challenge"] == challenge:
            yield path.parent, meta, ids


def is_decoded(sources: np.ndarray) -> np.ndarray:
    """Return which rows of sources.npy (n, 4) belong to a decoded image: bool (n,)."""
    return sources[:, 0] != 0  # the file size: no image has 0 bytes


def cache_path(
    files: pd.Series,
    size: int,
    cache_dir: Path,
    challenge: str,
    split: str,
    images_dir: Path,
    channels: int = 1,
) -> Path:
    """Return the folder of the cache of `files` (index image_id, in any order) at this size.

    Its name depends on the ids, the paths of the files below `images_dir`, the real path of `images_dir` and
    the decoder. So two data sets with the same ids never share a cache.
    """
    identity = hashlib.sha256(json.dumps([DECODERS[channels], size, real_path(images_dir)]).encode())
    prefix = str(images_dir.absolute()).rstrip(os.sep) + os.sep
    files = files.sort_index()
    pairs = zip(files.index.tolist(), files.tolist(), strict=True)
    lines = "".join(f"\n{image_id}\0{file.removeprefix(prefix)}" for image_id, file in pairs)
    identity.update(lines.encode(errors="surrogateescape"))
    return cache_dir / f"{challenge}-{split}-{identity.hexdigest()[:12]}"


def real_path(images_dir: Path) -> str:
    """Return the path of a folder with all symbolic links resolved."""
    return os.fsencode(os.path.realpath(images_dir)).decode(errors="backslashreplace")


def read_quarantine(directory: Path) -> pd.DataFrame:
    """Read the unreadable images: index image_id, columns path, STAT_FIELDS of the file, sha256, reason."""
    path = directory / "quarantine.csv"
    if not path.is_file():
        return EMPTY_QUARANTINE
    frame = read_csv(path)[["image_id", *EMPTY_QUARANTINE]]
    return frame.astype(dict.fromkeys(STAT_FIELDS, np.int64)).set_index("image_id")
