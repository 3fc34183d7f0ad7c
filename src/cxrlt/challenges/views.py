"""Map the projections of radiographs, as hospitals write them, to frontal, lateral and unknown."""

import re

import pandas as pd

FRONTAL_WORDS = {"AP", "PA", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "FRONTAL"}
LATERAL_WORDS = {"LATERAL", "LAT", "LL", "RL", "L"}


def parse_view(projection: str) -> str:
    """Return `frontal`, `lateral`, or `unknown` for a blank, an oblique view and all others.

    A decubitus view is frontal if it is AP or PA (the patient is on the side, the beam is horizontal),
    otherwise unknown, even if its name contains "lateral".
    """
    text = projection.upper().replace("ANTERO-POSTERIOR", "AP").replace("POSTERO-ANTERIOR", "PA")
    words = set(re.split(r"[^A-Z0-9]+", text))
    if words & FRONTAL_WORDS:
        return "frontal"
    return "lateral" if words & LATERAL_WORDS and "DECUBITUS" not in words else "unknown"


def parse_views(column: pd.Series, *others: pd.Series) -> pd.Series:
    """Return the view of every row, with the index of `column`; where it is blank, `others` are used."""
    merged = column
    for other in others:
        merged = merged.where(merged != "", other)
    return merged.map({text: parse_view(text) for text in merged.unique()})
