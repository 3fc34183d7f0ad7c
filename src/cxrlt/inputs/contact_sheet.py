"""One picture of many radiographs, each with its labels below it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxrlt.artifacts import atomic_path
from cxrlt.errors import listing
from cxrlt.literal_figure import LiteralFigure

CELL_INCHES = 2.2
LINE_INCHES = 0.14
LETTERS_PER_LINE = 32
DPI = 110


def write_contact_sheet(
    path: Path, images: np.ndarray, labels: Sequence[Sequence[str]], columns: int = 8
) -> None:
    """Write a PNG of uint8 `images`, with the names in labels[i] under image i.

    They are grey (n, h, w) or (n, 1, h, w), shown as they are (0 black, 255 white), or red, green and blue
    (n, 3, h, w). An image without labels is marked with a dash; of more than ten the first are named.
    """
    images = np.asarray(images)
    if images.ndim == 4:
        images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not fits or len(images) != len(labels) or not len(images):
        raise ValueError(f"{len(labels)} label lists for images of shape {images.shape}")
    captions = [textwrap.fill(listing(names) or "–", LETTERS_PER_LINE) for names in labels]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    n_lines = max(caption.count("\n") for caption in captions) + 2
    height = CELL_INCHES + n_lines * LINE_INCHES
    figure = LiteralFigure(figsize=(columns * CELL_INCHES, rows * height), dpi=DPI)
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, columns)
        left, bottom = column / columns, 1 - (row * height + CELL_INCHES) / (rows * height)
        box = (left + 0.02 / columns, bottom, 0.96 / columns, CELL_INCHES * 0.98 / (rows * height))
        axes = figure.add_axes(box)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        figure.text(left + 0.5 / columns, bottom, caption, ha="center", va="top", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
