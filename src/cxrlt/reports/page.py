"""Self-contained HTML pages: sections of paragraphs, tables and figures, with everything embedded."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrlt.system.atomic_files import write_text

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class PageTable:
    """A table of formatted cells, with its caption above.

    A `sortable` table is sorted by a click on a heading, by `sort_values` (the shape of `rows`) if there are
    any. `links` maps the text of a first cell to the id of the part of the page that it opens.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    sort_values: Sequence[Sequence[float | str]] = ()
    sortable: bool = False
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PageFigure:
    """A PNG or SVG file and its caption."""

    caption: str
    path: Path

    @property
    def data(self) -> str:
        """The content of a PNG file as base64."""
        return base64.b64encode(self.path.read_bytes()).decode("ascii")

    @property
    def svg(self) -> str:
        """The element of an SVG file, without the header of the file; empty for a PNG file."""
        if self.path.suffix != ".svg":
            return ""
        text = self.path.read_text(encoding="utf-8")
        return text[text.index("<svg") :]


@dataclass(frozen=True)
class Detail:
    """A part of a section that is closed until it is opened; `id` is the target of links."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[PageFigure] = ()
    code: str = ""


@dataclass(frozen=True)
class Section:
    """A heading followed by paragraphs, numbered steps (text, command), tables, figures and details."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    details: Sequence[Detail] = ()
    steps: Sequence[tuple[str, str]] = ()
    code: str = ""

    @property
    def id(self) -> str:
        """The id of the heading."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page with these sections."""
    environment = Environment(
        loader=PackageLoader("cxrlt", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(TEMPLATE).render(title=title, sections=sections))
