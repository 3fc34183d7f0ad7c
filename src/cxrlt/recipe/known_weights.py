"""The table weights.yaml: pretrained weights with a source for architecture, layout and normalisation."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from cxrlt.errors import quoted
from cxrlt.heads import Option
from cxrlt.spelling import did_you_mean
from cxrlt.text_table import text_table

TABLE = Path(__file__).parent / "weights.yaml"
PRESET_FIELDS = ("backbone", "options", "mean", "std", "pretrained_on")
"""The fields of the recipe's section `model` that a row sets."""


class KnownWeights(BaseModel):
    """A row: where a file of weights comes from, its terms, and the recipe fields that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    address: str
    """Where to get the file: `hf-hub:ORG/REPO/FILE@REVISION`, or a page."""
    licence: str
    restricted: bool
    """Whether the terms forbid commercial use or are not known, or access needs a form."""
    backbone: str
    options: dict[str, Option] = {}
    size: int
    """Image side of the pretraining in pixels. The recipe decides about its own: data.size."""
    mean: float | tuple[float, float, float]
    """Of pixels / 255, as is std: one number, or one per channel."""
    std: float | tuple[float, float, float]
    pretrained_on: tuple[str, ...]
    """Data sets of the pretraining. Empty: not confirmed."""
    layout: str
    """Wrapper, prefix and names of the tensors in the file."""
    source: str
    """Where architecture, layout and normalisation were read."""
    opened: bool = False
    """Whether this project has loaded the real file."""

    def recipe_fields(self) -> dict[str, Any]:
        """Return the fields of the recipe's section `model` that fit the file."""
        return {name: getattr(self, name) for name in PRESET_FIELDS}


@cache
def read_known_weights() -> dict[str, KnownWeights]:
    """Return the rows of weights.yaml by name."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8")) or {}
    return {name: KnownWeights.model_validate(row) for name, row in rows.items()}


def known_weights(name: str) -> KnownWeights:
    """Return a row. Raises ValueError for an unknown name, with a suggestion."""
    rows = read_known_weights()
    if name not in rows:
        hint = did_you_mean(name, list(rows))
        raise ValueError(f"model.weights {quoted(name)} is not in the table{hint}: see `cxrlt weights`")
    return rows[name]


def weights_table() -> str:
    """Return all rows as a text table."""
    headings = ("name", "backbone", "size", "licence", "restricted", "pretrained on", "opened")
    rows = [
        (
            name,
            row.backbone,
            str(row.size),
            row.licence,
            "yes" if row.restricted else "no",
            ", ".join(row.pretrained_on) or "not confirmed",
            "yes" if row.opened else "no",
        )
        for name, row in read_known_weights().items()
    ]
    return text_table(headings, rows, n_text=len(headings))
