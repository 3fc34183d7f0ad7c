"""The finished folds of a run, as their folders describe them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cxrlt.artifacts import name_of_run
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds
from cxrlt.predictions.parse import read_parsed
from cxrlt.recipe import Recipe, load_recipe
from cxrlt.training.places import REFIT, WEIGHTS, train_command, train_run_command

CONFIG = "config.yaml"
IDENTITY = ("challenge", "name", "fold", "seed", "folds_sha256")
"""What run.json has to say."""


@dataclass(frozen=True)
class TrainedFold:
    """A finished fold, or a refit on all rows, as its folder describes it."""

    directory: Path
    recipe: Recipe
    identity: dict[str, object]

    @property
    def fold(self) -> str:
        return str(self.identity["fold"])

    @property
    def train_command(self) -> str:
        """What trains it."""
        return train_command(self.directory.parent, self.fold, str(self.identity["challenge"]))


def trained_folds(
    run_dir: Path, folds: Folds, challenge: str, only: Collection[int] | None = None
) -> list[TrainedFold]:
    """The finished folds of a run, in order; with `only` those of them.

    Raises UserError if there are none, if they were trained on another split, or if their description is
    damaged.
    """
    found = []
    for directory in fold_dirs(run_dir):
        wanted = only is None or fold_of(directory) in map(str, only)
        if not wanted or not (directory / WEIGHTS).is_file():
            continue
        identity = _identity_of(directory, challenge)
        if identity["folds_sha256"] != folds.sha256:
            raise UserError(
                f"{directory} was trained on another split than the folds.csv there is now. "
                f"Train it anew: {train_run_command(run_dir, challenge)} --force"
            )
        found.append(TrainedFold(directory, recipe_of(directory, challenge), identity))
    if not found:
        raise UserError(
            f"Nothing is trained under the name {name_of_run(run_dir, challenge)!r} for {challenge}. "
            f"Train it with: {train_run_command(run_dir, challenge)}"
        )
    return found


def fold_dirs(run_dir: Path) -> list[Path]:
    """The folders of a run's folds, finished or not, in order."""
    found = [*run_dir.glob("fold[0-9]*"), *run_dir.glob(REFIT)]
    return sorted(found, key=lambda folder: (folder.name == REFIT, len(folder.name), folder.name))


def fold_of(directory: Path) -> str:
    """Which fold a folder is of."""
    return directory.name.removeprefix("fold")


def recipe_of(directory: Path, challenge: str) -> Recipe:
    """The recipe a fold was trained with. Raises UserError, naming the command, where its file is damaged."""
    path = directory / CONFIG
    again = f"{train_command(directory.parent, fold_of(directory), challenge)} --force"
    try:
        recipe = load_recipe(None, path)
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged: {str(error).rstrip('.')}. Train that fold anew: {again}"
        ) from error
    lost = [name for name in Recipe.model_fields if name not in recipe.model_fields_set]
    if lost:  # it is written whole: where a part is missing, it was cut
        raise UserError(f"{path} is damaged: it lacks {', '.join(lost)}. Train that fold anew: {again}")
    return recipe


def require_classes(unit: TrainedFold, challenge: Challenge) -> None:
    """Raises UserError if the fold was trained for other classes than there are, or in another order."""

    def parse(values: dict) -> tuple[str, tuple[str, ...]]:
        return values["task"], tuple(values["classes"])

    task, classes = read_parsed(unit.directory / "card.json", parse, unit.train_command)
    if (task, classes) != (challenge.task, challenge.classes):
        raise UserError(
            f"{unit.directory} was trained for other classes than those of {challenge.name}, or in another "
            f"order: {listing(classes)}. Train it anew: {unit.train_command} --force"
        )


def _identity_of(directory: Path, challenge: str) -> dict[str, object]:
    fold = fold_of(directory)

    def parse(values: dict) -> dict[str, object]:
        identity = {key: values[key] for key in IDENTITY}
        if not all(isinstance(value, str | int) for value in identity.values()):
            raise ValueError("it holds neither text nor numbers where it should")
        if str(identity["fold"]) != fold:
            raise ValueError(f"it is of fold {identity['fold']}")
        return identity

    return read_parsed(directory / "run.json", parse, train_command(directory.parent, fold, challenge))
