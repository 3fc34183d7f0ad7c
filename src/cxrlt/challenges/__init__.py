"""The competitions this project knows, by name."""

from pathlib import Path

from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import nearest
from cxrlt.challenges.custom import SPEC_FILE, csv_challenge
from cxrlt.challenges.cxr_lt import CXR_LT_2023, CXR_LT_2024, DEMO, DEMO_SINGLE
from cxrlt.challenges.nih import NIH14, NIHLT, NIHLT_SINGLE
from cxrlt.errors import UserError

CHALLENGES = {
    challenge.name: challenge
    for challenge in (DEMO, DEMO_SINGLE, CXR_LT_2023, *CXR_LT_2024, NIH14, NIHLT, NIHLT_SINGLE)
}
CUSTOM = "csv"


def challenge_names() -> list[str]:
    """Every name `get_challenge` knows."""
    return [*CHALLENGES, CUSTOM]


def get_challenge(name: str, inputs_dir: Path | None = None) -> Challenge:
    """The challenge of that name; `csv` is described by challenge.yaml in `inputs_dir`.

    Raises UserError for an unknown name.
    """
    if name in CHALLENGES:
        return CHALLENGES[name]
    if name == CUSTOM:
        if inputs_dir is None:
            raise UserError(f"The challenge csv is described by {SPEC_FILE}: name its folder with --inputs.")
        return csv_challenge(inputs_dir)
    near = nearest(name, challenge_names())
    meant = f" Did you mean {near!r}?" if near else ""
    raise UserError(f"There is no challenge {name!r}.{meant} Known: {', '.join(challenge_names())}.")
