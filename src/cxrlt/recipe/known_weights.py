"""The table weights.yaml: pretrained weights whose architecture, layout and normalisation were read in a source."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from cxrlt.heads import Option
from cxrlt.spelling import did_you_mean

TABLE = Path(__file__).parent / "weights.yaml"


class KnownWeights(BaseModel):
    """A row: where a file of weights comes from, its terms, and the recipe fields that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    address: str
    """Where to get the file: `hf-hub:ORG/REPO/FILE@REVISION`, or a page."""
    licence: str
    restricted: bool
    """Whether the terms forbid commercial use, or access needs a form."""
    backbone: str
    options: dict[str, Option] = {}
    size: int
    """Image side of the pretraining in pixels."""
    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]
    pretrained_on: tuple[str, ...]
    layout: str
    """Wrapper, prefix and names of the tensors in the file."""
    source: str
    """Where architecture, layout and normalisation were read."""
    opened: bool = False
    """Whether this project has loaded the real file."""

    def recipe_fields(self) -> dict[str, Any]:
        """Return the fields of the recipe's section `model` that fit the file."""
        names = ("backbone", "options", "mean", "std", "pretrained_on")
        return {name: getattr(self, name) for name in names}


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
        raise ValueError(f"model.weights {name!r} is not in the table{hint}. `cxrlt weights` lists it.")
    return rows[name]
