"""Find radiographs with inverted grey levels (bones dark, air bright).

No import of pandas, so that worker processes start fast.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cxrlt.errors import listing

THUMB_SIZE = 16
"""Side of the thumbnails that are compared, in pixels."""
MAX_CORRELATION = -0.3
"""An image whose correlation with the median image is below this looks inverted.

Measured on 1,642 images of NIH ChestX-ray14: one image is below, and it is inverted; 99.9 % of the images
are below if we invert them. None of 574 radiographs of another data set and of 909 phantom images (frontal
and lateral) is below.
"""
MIN_MEDIAN_CORRELATION = 0.5
"""Images are compared only if their median correlation is above this: otherwise they differ too much."""
MIN_IMAGES = 20
"""With fewer images the median image means little, and nothing is reported."""
MAX_MEDIAN_IMAGES = 2048
"""Number of images from which the median image is computed."""
BLOCK = 8192
"""Images that are compared at once, to save memory."""


def is_inverted(thumbs: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which thumbnails (n, THUMB_SIZE, THUMB_SIZE) look inverted compared with the rest: bool (n,)."""
    if len(thumbs) < MIN_IMAGES:
        return np.zeros(len(thumbs), bool)
    sample = thumbs[np.linspace(0, len(thumbs) - 1, min(MAX_MEDIAN_IMAGES, len(thumbs))).astype(int)]
    median_image = _standardise(np.median(sample, axis=0)[None])[0]
    blocks = np.array_split(thumbs, -(-len(thumbs) // BLOCK))
    correlation = np.concatenate([_standardise(block) @ median_image for block in blocks])
    return (correlation < MAX_CORRELATION) & (np.median(correlation) > MIN_MEDIAN_CORRELATION)


def inverted_warning(challenge: str, split: str, thumbs: NDArray[np.uint8], ids: Iterable[str]) -> str:
    """Return a warning that lists the images that look inverted; "" if there are none.

    `thumbs` is uint8 (n, THUMB_SIZE, THUMB_SIZE), with one row per id.
    """
    found = [image_id for image_id, bad in zip(ids, is_inverted(thumbs), strict=True) if bad]
    if not found:
        return ""
    return (
        f"{challenge} {split}: {len(found):,} of {len(thumbs):,} images look inverted (bones dark, air "
        f"bright): {listing(found)}. DICOM files with PhotometricInterpretation MONOCHROME1 look like this "
        "if they are exported without conversion. Check these images, and invert those that are inverted."
    )


def _standardise(images: NDArray) -> NDArray[np.float32]:
    """Return images as float32 (n, pixels) with mean 0 and norm 1; a constant image becomes zeros."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
