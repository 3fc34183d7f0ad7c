"""Radiographic projections in the words of hospitals, brought down to three views."""

import re

import pandas as pd

FRONTAL_WORDS = {"AP", "PA", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "FRONTAL"}
LATERAL_WORDS = {"LATERAL", "LAT", "LL", "RL", "L"}


def view_of(projection: str) -> str:
    """`frontal`, `lateral`, or `unknown` for a blank, an oblique and anything else.

    A decubitus film is frontal if it says AP or PA (the patient lies on the side, the beam is horizontal)
    and unknown otherwise, although its name may hold the word lateral.
    """
    text = projection.upper().replace("ANTERO-POSTERIOR", "AP").replace("POSTERO-ANTERIOR", "PA")
    words = set(re.split(r"[^A-Z0-9]+", text))
    if words & FRONTAL_WORDS:
        return "frontal"
    return "lateral" if words & LATERAL_WORDS and "DECUBITUS" not in words else "unknown"


def views(*columns: pd.Series) -> pd.Series | None:
    """The view of every row; a later column counts where the earlier ones are blank. None without columns."""
    if not columns:
        return None
    merged = columns[0]
    for column in columns[1:]:
        merged = merged.where(merged != "", column)
    return merged.map({text: view_of(text) for text in merged.unique()})
