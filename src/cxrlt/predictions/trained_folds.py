"""The trained folds of a run, read from their folders."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cxrlt.artifacts import run_name_from_dir
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT, Folds
from cxrlt.provenance import describe_differences, find_differences, provenance_of
from cxrlt.recipe import Recipe, fields_affecting, load_recipe
from cxrlt.system.atomic_files import file_state
from cxrlt.training.record import RunRecord, read_run_record
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_from_dir, train_fold_command, train_run_command


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold, or a refit on all rows: its folder, its recipe and its run.json."""

    directory: Path
    recipe: Recipe
    record: RunRecord

    @property
    def fold(self) -> str:
        """The number of the fold, or "refit"."""
        return self.record.fold

    @property
    def train_command(self) -> str:
        """The command that trains this fold."""
        return train_fold_command(self.directory.parent, self.fold, self.record.challenge)


def find_trained_folds(
    run_dir: Path, folds: Folds, challenge: str, only: Collection[int] | None = None
) -> list[TrainedFold]:
    """Return the trained folds of a run in order, or those of `only`.

    Raises UserError if there is no trained fold, if a fold was trained on another split or with another
    recipe than its config.yaml has now, or if its run.json or config.yaml is damaged.
    """
    found = []
    for directory in fold_dirs(run_dir):
        wanted = only is None or fold_from_dir(directory) in map(str, only)
        if not wanted or not (directory / WEIGHTS).is_file():
            continue
        record, recipe = read_run_record(directory, challenge), read_fold_recipe(directory, challenge)
        if not folds.was_training_split(record.provenance, record.fold):
            raise UserError(
                f"{directory} was trained on another split than the current folds.csv. "
                f"Train it again: {train_run_command(run_dir, challenge)} --force"
            )
        if edited := find_differences(
            record.provenance, provenance_of(recipe=fields_affecting(recipe, "weights"))
        ):
            raise UserError(
                f"{directory / CONFIG} is not what this fold was trained with: "
                f"{describe_differences(edited)}. Restore the old values, or train it again: "
                f"{train_fold_command(run_dir, record.fold, challenge)} --force"
            )
        found.append(TrainedFold(directory, recipe, record))
    if not found:
        raise UserError(
            f"No fold of {run_name_from_dir(run_dir, challenge)!r} is trained for {challenge}. "
            f"Train it with: {train_run_command(run_dir, challenge)}"
        )
    return found


def fold_dirs(run_dir: Path) -> list[Path]:
    """Return the folders of a run's folds in order, finished or not; a refit comes last."""
    found = [*run_dir.glob("fold[0-9]*"), *run_dir.glob(REFIT)]
    return sorted(found, key=lambda folder: (folder.name == REFIT, len(folder.name), folder.name))


def read_fold_recipe(directory: Path, challenge: str) -> Recipe:
    """Return the recipe that a fold was trained with. It is read once, until its file changes.

    Raises UserError with the command to run if the file is damaged.
    """
    return _read_recipe(directory, challenge, file_state(directory / CONFIG))


@cache
def _read_recipe(directory: Path, challenge: str, state: tuple[int, ...] | None) -> Recipe:
    path = directory / CONFIG
    again = f"{train_fold_command(directory.parent, fold_from_dir(directory), challenge)} --force"
    try:
        recipe = load_recipe(None, path)
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged: {str(error).rstrip('.')}. Train that fold again: {again}"
        ) from error
    lost = [name for name in Recipe.model_fields if name not in recipe.model_fields_set]
    if lost:  # all parts are always written: a missing part means a truncated file
        raise UserError(f"{path} is damaged: it lacks {', '.join(lost)}. Train that fold again: {again}")
    return recipe


def require_classes(trained_fold: TrainedFold, challenge: Challenge) -> None:
    """Raise UserError unless the fold was trained for the challenge's classes, in any order."""
    record = trained_fold.record
    if (record.task, set(record.classes)) != (challenge.task, set(challenge.classes)):
        odd = sorted(set(record.classes) ^ set(challenge.classes)) or [record.task]
        raise UserError(
            f"{trained_fold.directory} was trained for other classes than those of {challenge.name}: "
            f"{listing(odd)}. Train it again: {trained_fold.train_command} --force"
        )
