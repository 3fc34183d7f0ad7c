"""A contact sheet: one PNG of many radiographs, each with its labels below it."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.text import Text
from matplotlib.transforms import Bbox, TransformedBbox

from cxrlt.errors import listing
from cxrlt.system.atomic_files import atomic_path

CELL_INCHES = 2.2  # layout: side of a cell
IMAGE_SHARE = 0.96
"""Longer side of an image, as a share of the side of its cell."""
LINE_INCHES = 0.14  # layout: height of a line of text
CHARACTERS_PER_LINE = 32  # layout: fits a cell's width
DPI = 110  # layout: 242 pixels per cell


class LiteralFigure(Figure):
    """A figure whose texts are never parsed as math: names of classes, runs and challenges may contain "$".

    A character that the font lacks is drawn as a box, without a warning.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure. Also covers tick labels, which matplotlib only creates while drawing."""
        with rc_context({"text.parse_math": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
            for text in self.findobj(Text):
                text.set_parse_math(False)
            super().draw(renderer)


def write_contact_sheet(
    path: Path, images: np.ndarray, labels: Sequence[Sequence[str]], columns: int = 8
) -> None:
    """Write a PNG of uint8 `images`, with the names in labels[i] below image i.

    `images` are grey (n, h, w) or (n, 1, h, w), or RGB (n, 3, h, w); 0 is black, 255 is white. An image
    without labels gets a dash; of more than ten labels only the first ten are shown. Raises ValueError for
    other shapes, no image, or another number of label lists.
    """
    images = np.asarray(images)
    if images.ndim == 4:
        images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not is_image or len(images) != len(labels) or not len(images):
        raise ValueError(f"{len(labels)} label lists for images of shape {images.shape}")
    captions = [textwrap.fill(listing(names) or "–", CHARACTERS_PER_LINE) for names in labels]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    n_lines = max(caption.count("\n") for caption in captions) + 2
    height = CELL_INCHES + n_lines * LINE_INCHES
    figure = LiteralFigure(figsize=(columns * CELL_INCHES, rows * height), dpi=DPI)
    longer_side = max(images.shape[1:3])
    width_inches, height_inches = (
        IMAGE_SHARE * CELL_INCHES * side / longer_side for side in (images.shape[2], images.shape[1])
    )
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, columns)
        centre, bottom = (column + 0.5) * CELL_INCHES, (rows - row) * height - CELL_INCHES
        middle = bottom + CELL_INCHES / 2
        box = Bbox.from_extents(
            centre - width_inches / 2,
            middle - height_inches / 2,
            centre + width_inches / 2,
            middle + height_inches / 2,
        )
        # BboxImage, as one Axes per image with its ticks takes three times as long
        shown = BboxImage(TransformedBbox(box, figure.dpi_scale_trans), cmap="gray", norm=Normalize(0, 255))
        shown.set_data(image)
        figure.add_artist(shown)
        figure.text(
            centre, bottom, caption, transform=figure.dpi_scale_trans, ha="center", va="top", fontsize=8
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
