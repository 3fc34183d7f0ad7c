"""The competitions this project knows, by name; their modules are imported when one of them is asked for."""

from importlib import import_module
from pathlib import Path

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.spelling import nearest

# name -> the module below this one, and which of its values is the challenge
FIXED = {
    "demo": ("cxr_lt", "DEMO"),
    "demo-single": ("cxr_lt", "DEMO_SINGLE"),
    "cxrlt2023": ("cxr_lt", "CXR_LT_2023"),
    "cxrlt2024-task1": ("cxr_lt", "CXR_LT_2024_TASK1"),
    "cxrlt2024-task2": ("cxr_lt", "CXR_LT_2024_TASK2"),
    "nih14": ("nih", "NIH14"),
    "nihlt": ("nih", "NIHLT"),
    "nihlt-single": ("nih", "NIHLT_SINGLE"),
}
# which of its functions makes the challenge that follows from what is in an inputs folder
FOLLOWING = {
    "cxrlt2026-task1": ("cxr_lt_2026", "cxr_lt_2026"),
    "folder": ("folder", "folder_challenge"),
    "csv": ("custom", "csv_challenge"),
}


def challenge_names() -> list[str]:
    """Every name `get_challenge` knows."""
    return [*FIXED, *FOLLOWING]


def get_challenge(name: str, inputs_dir: Path | None = None) -> Challenge:
    """The challenge of that name; those of FOLLOWING follow from what is in `inputs_dir`.

    Raises UserError for an unknown name.
    """
    if name in FIXED:
        return _value(*FIXED[name])
    if name in FOLLOWING:
        if inputs_dir is None:
            raise UserError(f"The challenge {name} follows from its inputs: name their folder with --inputs.")
        return _value(*FOLLOWING[name])(inputs_dir)
    near = nearest(name, challenge_names())
    meant = f" Did you mean {near!r}?" if near else ""
    raise UserError(f"There is no challenge {name!r}.{meant} Known: {', '.join(challenge_names())}.")


def _value(module: str, name: str) -> object:
    return getattr(import_module(f"{__name__}.{module}"), name)
