"""Figures that show every text as it is written."""

import warnings

from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text


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
