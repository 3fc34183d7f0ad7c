"""The competitions this project knows, by name."""

from pathlib import Path

from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import nearest
from cxrlt.challenges.custom import csv_challenge
from cxrlt.challenges.cxr_lt import CXR_LT_2023, CXR_LT_2024, DEMO, DEMO_SINGLE
from cxrlt.challenges.cxr_lt_2026 import NAME as CXR_LT_2026
from cxrlt.challenges.cxr_lt_2026 import cxr_lt_2026
from cxrlt.challenges.folder import folder_challenge
from cxrlt.challenges.nih import NIH14, NIHLT, NIHLT_SINGLE
from cxrlt.errors import UserError

CHALLENGES = {
    challenge.name: challenge
    for challenge in (DEMO, DEMO_SINGLE, CXR_LT_2023, *CXR_LT_2024, NIH14, NIHLT, NIHLT_SINGLE)
}
# which follow from what is in their inputs folder
CUSTOM = {CXR_LT_2026: cxr_lt_2026, "folder": folder_challenge, "csv": csv_challenge}


def challenge_names() -> list[str]:
    """Every name `get_challenge` knows."""
    return [*CHALLENGES, *CUSTOM]


def get_challenge(name: str, inputs_dir: Path | None = None) -> Challenge:
    """The challenge of that name; those of CUSTOM follow from what is in `inputs_dir`.

    Raises UserError for an unknown name.
    """
    if name in CHALLENGES:
        return CHALLENGES[name]
    if name in CUSTOM:
        if inputs_dir is None:
            raise UserError(f"The challenge {name} follows from its inputs: name their folder with --inputs.")
        return CUSTOM[name](inputs_dir)
    near = nearest(name, challenge_names())
    meant = f" Did you mean {near!r}?" if near else ""
    raise UserError(f"There is no challenge {name!r}.{meant} Known: {', '.join(challenge_names())}.")
