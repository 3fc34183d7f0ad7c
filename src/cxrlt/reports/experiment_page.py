"""An experiment as one HTML file that needs no other: tables as text, figures embedded."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrlt.system.atomic_files import write_text

TEMPLATE = "experiment_page.html.jinja"


@dataclass(frozen=True)
class PageTable:
    """Cells as text; `caption` stands above."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PageFigure:
    """A PNG file; `caption` says how to read it."""

    caption: str
    path: Path

    @property
    def data(self) -> str:
        """The file as base64."""
        return base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then tables, then figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()


def write_experiment_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    environment = Environment(
        loader=PackageLoader("cxrlt", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(TEMPLATE).render(title=title, sections=sections))
