"""The finished folds of a run, as their folders describe them."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cxrlt.artifacts import name_of_run
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT, Folds
from cxrlt.provenance import differing, in_words, made_of
from cxrlt.recipe import Recipe, fields_affecting, load_recipe
from cxrlt.system.atomic_files import file_state
from cxrlt.training.record import RunRecord, read_run
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_of, train_fold_command, train_run_command


@dataclass(frozen=True)
class TrainedFold:
    """A finished fold, or a refit on all rows, as its folder describes it."""

    directory: Path
    recipe: Recipe
    record: RunRecord

    @property
    def fold(self) -> str:
        return self.record.fold

    @property
    def train_command(self) -> str:
        """What trains it."""
        return train_fold_command(self.directory.parent, self.fold, self.record.challenge)


def trained_folds(
    run_dir: Path, folds: Folds, challenge: str, only: Collection[int] | None = None
) -> list[TrainedFold]:
    """The finished folds of a run, in order; with `only` those of them.

    Raises UserError if there are none, if they were trained on another split or with another recipe than
    config.yaml has now, or if their description is damaged.
    """
    found = []
    for directory in fold_dirs(run_dir):
        wanted = only is None or fold_of(directory) in map(str, only)
        if not wanted or not (directory / WEIGHTS).is_file():
            continue
        record, recipe = read_run(directory, challenge), recipe_of(directory, challenge)
        if not folds.has_trained(record.made_of, record.fold):
            raise UserError(
                f"{directory} was trained on another split than the folds.csv there is now. "
                f"Train it again: {train_run_command(run_dir, challenge)} --force"
            )
        if edited := differing(record.made_of, made_of(recipe=fields_affecting(recipe, "weights"))):
            raise UserError(
                f"{directory / CONFIG} is not what this fold was trained with: {in_words(edited)}. "
                f"Put the former values back, or train it again: "
                f"{train_fold_command(run_dir, record.fold, challenge)} --force"
            )
        found.append(TrainedFold(directory, recipe, record))
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


def recipe_of(directory: Path, challenge: str) -> Recipe:
    """The recipe a fold was trained with, read once as long as its file stays the same.

    Raises UserError, naming the command, where the file is damaged.
    """
    return _read_recipe(directory, challenge, file_state(directory / CONFIG))


@cache
def _read_recipe(directory: Path, challenge: str, state: tuple[int, ...] | None) -> Recipe:
    path = directory / CONFIG
    again = f"{train_fold_command(directory.parent, fold_of(directory), challenge)} --force"
    try:
        recipe = load_recipe(None, path)
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged: {str(error).rstrip('.')}. Train that fold again: {again}"
        ) from error
    lost = [name for name in Recipe.model_fields if name not in recipe.model_fields_set]
    if lost:  # it is written whole: where a part is missing, it was cut
        raise UserError(f"{path} is damaged: it lacks {', '.join(lost)}. Train that fold again: {again}")
    return recipe


def require_classes(unit: TrainedFold, challenge: Challenge) -> None:
    """Raises UserError if the fold was trained for other classes than there are; their order may differ."""
    record = unit.record
    if (record.task, set(record.classes)) != (challenge.task, set(challenge.classes)):
        odd = sorted(set(record.classes) ^ set(challenge.classes)) or [record.task]
        raise UserError(
            f"{unit.directory} was trained for other classes than those of {challenge.name}: {listing(odd)}. "
            f"Train it again: {unit.train_command} --force"
        )
