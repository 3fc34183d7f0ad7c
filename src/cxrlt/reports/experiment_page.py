"""The report of an experiment as one self-contained HTML file with embedded figures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrlt.system.atomic_files import write_text

TEMPLATE = "experiment_page.html.jinja"


@dataclass(frozen=True)
class PageTable:
    """A table of formatted cells, with its caption above."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PageFigure:
    """A PNG file and its caption."""

    caption: str
    path: Path

    @property
    def data(self) -> str:
        """The content of the file as base64."""
        return base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A heading followed by paragraphs, tables and figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()


def write_experiment_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page with these sections."""
    environment = Environment(
        loader=PackageLoader("cxrlt", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(TEMPLATE).render(title=title, sections=sections))
