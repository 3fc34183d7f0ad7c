"""What final predictions and the choices behind them are made of, for models and ensembles alike."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.weights import EnsembleWeights, read_weights
from cxrlt.errors import UserError
from cxrlt.folds.read import REFIT
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.predictions.store import predict_command, read_meta
from cxrlt.predictions.study_mean import CANDIDATES
from cxrlt.predictions.trained import fold_dirs, recipe_of
from cxrlt.provenance import MadeOf, OutdatedError, in_words, made_of, only
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.training.record import read_run
from cxrlt.training.run_paths import RUN, fold_of


def made_of_evidence(names: Iterable[str], present: Present) -> MadeOf:
    """What a choice by out-of-fold rows is made on: models' predictions, labels, studies, views and folds."""
    parts = made_of(predictions=_values(sorted(names), "oof", present))
    return parts | present.labels_and_views | {"split": present.folds.identity.split}


def made_of_final(name: str, split: str, present: Present) -> MadeOf:
    """What the final predictions of a model or an ensemble for a split are computed from.

    Raises UserError for a weights.json or a recipe that is damaged.
    """
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    if is_ensemble(run_dir):
        weights = read_weights(run_dir, present.challenge)
        parts = made_of(
            ensemble=weights.model_dump(mode="json", exclude={"why", "nested", "made_of"}),
            predictions=_values(weights.members if split == "oof" else weights.used, split, present),
        )
        # the ensemble's many numbers need no digests of their own
        parts = {part: value for part, value in parts.items() if "." not in part}
    else:
        recipe = predicting_recipe(run_dir, present.challenge)
        parts = made_of(
            recipe=fields_affecting(recipe, "scores"),
            predictions=_values([name], split, present) | _values([name], "oof", present),
        )
        if recipe.predict.study_mean in CANDIDATES:
            parts |= present.labels_and_views
    return parts | {"split": present.folds.identity.split}


def predicting_recipe(run_dir: Path, challenge: Challenge) -> Recipe:
    """The recipe that says how a run's predictions are put together: that of its first finished fold."""
    units = fold_dirs(run_dir)
    return recipe_of(units[0] if units else run_dir / "fold0", challenge.name)


def weights_of_split(name: str, present: Present) -> EnsembleWeights:
    """What an ensemble is. Raises OutdatedError if it was fitted on another split, UserError if damaged."""
    weights = read_weights(present.workspace.run_dir(present.challenge.name, name), present.challenge)
    n_folds = {len(weights.by_fold), len(weights.study_mean.by_fold)}
    now = {"split": present.folds.identity.split}
    if n_folds != {present.folds.n_folds} or present.differing(weights.made_of, now, None):
        _refuse_ensemble(name, weights, {"split": []})
    return weights


def require_same_predictions(name: str, weights: EnsembleWeights, present: Present) -> None:
    """Raises OutdatedError if an ensemble was fitted on other predictions of its members than there are now.

    Other labels are only noted: see `notes_of`.
    """
    now = only(["predictions"], made_of_evidence(weights.members, present))
    if found := present.differing(weights.made_of, now, None):
        _refuse_ensemble(name, weights, found)


def _refuse_ensemble(name: str, weights: EnsembleWeights, found: Mapping[str, list[str]]) -> NoReturn:
    raise OutdatedError(
        f"The ensemble {name} is outdated: it was fitted on {in_words(found)} than there are now. "
        f"Make it again with: {weights.command(name)} --force"
    )


def notes_of(name: str, split: str, present: Present) -> list[str]:
    """What is said of a run or an ensemble wherever it is calibrated, scored or submitted.

    Which folds alone it is of (--partial), rows that do not count, images that could not be compared, and
    what its models were trained on that has changed since.
    """
    notes = []
    if present.partial is not None:
        held = ", ".join(map(str, present.partial))
        notes.append(f"only of folds {held} of {present.folds.n_folds}, which are finished (--partial)")
    if split == "oof":
        notes += present.rows.notes(present.challenge.name)
    return [*notes, *present.unknown_pixels(split), *_data_changes(name, present)]


def _data_changes(name: str, present: Present) -> list[str]:
    """ "trained on other labels (Mass) than there are now (folds 0, 1)", of an ensemble for each member.

    An ensemble's own fit counts too.
    """
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    if not is_ensemble(run_dir):
        return _training_data_changes(run_dir, present)
    weights = read_weights(run_dir, present.challenge)
    notes = [f"{member}: {each}" for member in weights.used for each in _data_changes(member, present)]
    now = only(("labels", "views"), made_of_evidence(weights.members, present))
    if not len(present.rows.gone) and (found := present.differing(weights.made_of, now, None)):
        notes.append(
            f"its weights were fitted on {in_words(found)} than there are now: {weights.command(name)}"
        )
    return notes


def _training_data_changes(run_dir: Path, present: Present) -> list[str]:
    folds_of: dict[str, list[str]] = {}
    for directory in fold_dirs(run_dir):
        if not (directory / RUN).is_file():
            continue
        try:
            record = read_run(directory, present.challenge.name)
            recipe = recipe_of(directory, present.challenge.name)
        except UserError:  # the stages that need them say so
            continue
        if changes := present.changes_in_data(record, recipe):
            folds_of.setdefault(in_words(changes), []).append(fold_of(directory))
    return [
        f"trained on {words} than there are now (fold{'s' * (len(folds) > 1)} {', '.join(folds)})"
        for words, folds in folds_of.items()
    ]


def _values(names: Iterable[str], split: str, present: Present) -> dict[str, str]:
    """Digest of the logits of every fold there is, by the file."""
    found = {}
    for name in names:
        for directory in fold_dirs(present.workspace.run_dir(present.challenge.name, name)):
            path = directory / f"{split}.parquet"
            held = directory.name == REFIT or int(fold_of(directory)) in present.folds.held
            if held and path.is_file():
                command = predict_command(name, present.challenge.name, split)
                found[f"{name}/{directory.name}/{split}"] = read_meta(path, command).values
    return found
