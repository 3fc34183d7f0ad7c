"""The names of models and ensembles, and what to say of a name that none of them has."""

from pathlib import Path

from cxrlt.artifacts import Workspace
from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing, quoted
from cxrlt.folds.read import REFIT
from cxrlt.spelling import nearest
from cxrlt.training.run_paths import train_run_command

WEIGHTS_FILE = "weights.json"
"""What an ensemble's folder holds, and no model's."""


def is_ensemble(run_dir: Path) -> bool:
    return (run_dir / WEIGHTS_FILE).is_file()


def holds_run(run_dir: Path) -> bool:
    """Whether a folder is a model's or an ensemble's, and not one that groups such folders."""
    return is_ensemble(run_dir) or (run_dir / REFIT).is_dir() or any(run_dir.glob("fold[0-9]*"))


def run_names(challenge: str, workspace: Workspace) -> list[str]:
    """Of all models and ensembles of a challenge, those of studies included."""
    root = workspace.folds_dir(challenge)
    return sorted(
        folder.relative_to(root).as_posix()
        for folder in root.rglob("*")
        if folder.is_dir() and holds_run(folder)
    )


def require_run(challenge: Challenge, workspace: Workspace, name: str) -> None:
    """Raises UserError, with the names there are and the nearest, if `name` is no run and no ensemble."""
    if not holds_run(workspace.run_dir(challenge.name, name)):
        raise UserError(_nothing_called(name, challenge.name, workspace))


def require_start(challenge: Challenge, workspace: Workspace, init_from: str) -> None:
    """As `require_run`, for the RUN or CHALLENGE:RUN of a recipe's model.init_from."""
    before, colon, after = init_from.partition(":")
    origin, name = (before, after) if colon else (challenge.name, before)
    if origin not in challenge_names():
        get_challenge(origin)  # says which is meant
    if not holds_run(workspace.run_dir(origin, name)):
        raise UserError(f"model.init_from {init_from}: {_nothing_called(name, origin, workspace)}")


def _nothing_called(name: str, challenge: str, workspace: Workspace) -> str:
    names = run_names(challenge, workspace)
    near = nearest(name, names)
    elsewhere = [other for other in challenge_names() if holds_run(workspace.run_dir(other, name))]
    sentence = f"Nothing is called {quoted(name)} for {challenge}"
    sentence += f". There are: {listing(names)}." if names else ", and nothing is trained for it yet."
    if near:
        sentence += f" Did you mean {near!r}?"
    for other in elsewhere:
        sentence += f" {other} has it: --challenge {other}, or in cxrlt submit --from {other}."
    if not near and not elsewhere:
        sentence += f" Train it with: {train_run_command(workspace.run_dir(challenge, name), challenge)}"
    return sentence
