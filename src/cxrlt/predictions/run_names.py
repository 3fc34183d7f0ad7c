"""The names of models and ensembles, and the error for an unknown name."""

from pathlib import Path

from cxrlt.artifacts import Workspace
from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing, quoted
from cxrlt.folds.read import REFIT
from cxrlt.spelling import closest_match
from cxrlt.training.run_paths import train_run_command

WEIGHTS_FILE = "weights.json"
"""The file that makes a folder an ensemble's; folders of models do not have it."""


def is_ensemble(run_dir: Path) -> bool:
    """Return whether the folder holds an ensemble."""
    return (run_dir / WEIGHTS_FILE).is_file()


def is_run_dir(run_dir: Path) -> bool:
    """Return whether the folder holds a model or an ensemble; a folder that groups runs does not."""
    return is_ensemble(run_dir) or (run_dir / REFIT).is_dir() or any(run_dir.glob("fold[0-9]*"))


def run_names(challenge: str, workspace: Workspace) -> list[str]:
    """Return the sorted names of all models and ensembles of a challenge, including runs of experiments."""
    root = workspace.folds_dir(challenge)
    return sorted(
        folder.relative_to(root).as_posix()
        for folder in root.rglob("*")
        if folder.is_dir() and is_run_dir(folder)
    )


def require_run(challenge: Challenge, workspace: Workspace, name: str) -> None:
    """Raise UserError, with the known names and the most similar one, if `name` is no run and no ensemble."""
    if not is_run_dir(workspace.run_dir(challenge.name, name)):
        raise UserError(_unknown_run_message(name, challenge.name, workspace))


def require_init_from(challenge: Challenge, workspace: Workspace, init_from: str) -> None:
    """Check the RUN or CHALLENGE:RUN of a recipe's model.init_from.

    Raises UserError if the challenge or the run does not exist.
    """
    before, colon, after = init_from.partition(":")
    origin, name = (before, after) if colon else (challenge.name, before)
    if origin not in challenge_names():
        get_challenge(origin)  # raises UserError with a suggestion
    if not is_run_dir(workspace.run_dir(origin, name)):
        raise UserError(f"model.init_from {init_from}: {_unknown_run_message(name, origin, workspace)}")


def _unknown_run_message(name: str, challenge: str, workspace: Workspace) -> str:
    names = run_names(challenge, workspace)
    near = closest_match(name, names)
    elsewhere = [other for other in challenge_names() if is_run_dir(workspace.run_dir(other, name))]
    sentence = f"There is no run or ensemble {quoted(name)} for {challenge}"
    sentence += f". The names are: {listing(names)}." if names else ", and nothing is trained for it yet."
    if near:
        sentence += f" Did you mean {near!r}?"
    for other in elsewhere:
        sentence += (
            f" {other} has a run of this name: use --challenge {other}, or cxrlt submit --from {other}."
        )
    if not near and not elsewhere:
        sentence += f" Train it with: {train_run_command(workspace.run_dir(challenge, name), challenge)}"
    return sentence
