"""One picture of many radiographs, each with its labels below it."""

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

CELL_INCHES = 2.2
SHARE = 0.96  # of a cell's side that the longer side of an image takes
LINE_INCHES = 0.14
LETTERS_PER_LINE = 32
DPI = 110


class LiteralFigure(Figure):
    """A figure in which no text is mathematics: names of classes, runs and challenges may hold dollar signs.

    A letter that the font lacks is drawn as a box, without a warning for each of them.
    """

    def draw(self, renderer: RendererBase) -> None:
        """As `Figure.draw`, with every text that is there by now, and those that ticks get only here."""
        with rc_context({"text.parse_math": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
            for text in self.findobj(Text):
                text.set_parse_math(False)
            super().draw(renderer)


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
    longer_side = max(images.shape[1:3])
    wide, high = (SHARE * CELL_INCHES * side / longer_side for side in (images.shape[2], images.shape[1]))
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, columns)
        centre, bottom = (column + 0.5) * CELL_INCHES, (rows - row) * height - CELL_INCHES
        middle = bottom + CELL_INCHES / 2
        box = Bbox.from_extents(centre - wide / 2, middle - high / 2, centre + wide / 2, middle + high / 2)
        # axes for every image, with the ticks that they would have, take three times as long
        shown = BboxImage(TransformedBbox(box, figure.dpi_scale_trans), cmap="gray", norm=Normalize(0, 255))
        shown.set_data(image)
        figure.add_artist(shown)
        place = {"transform": figure.dpi_scale_trans, "ha": "center", "va": "top", "fontsize": 8}
        figure.text(centre, bottom, caption, **place)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
