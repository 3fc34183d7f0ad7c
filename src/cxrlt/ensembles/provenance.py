"""The provenance of final predictions, for models and for ensembles, and the notes on outdated inputs."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.weights import EnsembleWeights, read_weights
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.predictions.store import predict_command, read_meta
from cxrlt.predictions.study_mean import CANDIDATE_WEIGHTS
from cxrlt.predictions.trained_folds import fold_dirs, read_fold_recipe
from cxrlt.provenance import OutdatedError, Provenance, describe_differences, provenance_of, select_parts
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.training.initial_weights import weights_notes
from cxrlt.training.record import RunRecord, read_run_record
from cxrlt.training.run_paths import RUN, fold_from_dir


def oof_provenance(names: Iterable[str], current: CurrentData) -> Provenance:
    """Return the provenance of a choice by out-of-fold rows: predictions, labels, studies, views, folds."""
    parts = provenance_of(predictions=_logits_digests(sorted(names), "oof", current))
    return parts | current.labels_and_views | {"split": current.folds.identity.split}


def final_provenance(name: str, split: str, current: CurrentData) -> Provenance:
    """Return the provenance that final predictions of a model or an ensemble would have now.

    Raises UserError if weights.json or a recipe is damaged.
    """
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    if is_ensemble(run_dir):
        weights = read_weights(run_dir, current.challenge)
        members = weights.members if split == "oof" else weights.active_members
        parts = provenance_of(
            ensemble=weights.model_dump(mode="json", exclude={"why", "nested", "provenance"}),
            predictions=_logits_digests(members, split, current),
        )
        # the digest of the whole weights.json is enough: drop those of its fields
        parts = {part: value for part, value in parts.items() if "." not in part}
    else:
        recipe = read_run_recipe(run_dir, current.challenge)
        parts = provenance_of(
            recipe=fields_affecting(recipe, "scores"),
            predictions=_logits_digests([name], split, current) | _logits_digests([name], "oof", current),
        )
        if recipe.predict.study_mean in CANDIDATE_WEIGHTS:
            parts |= current.labels_and_views
    return parts | {"split": current.folds.identity.split}


def read_run_recipe(run_dir: Path, challenge: Challenge) -> Recipe:
    """Return the recipe that decides how a run's folds are averaged: the one of its first fold."""
    folders = fold_dirs(run_dir)
    return read_fold_recipe(folders[0] if folders else run_dir / "fold0", challenge.name)


def load_current_weights(name: str, current: CurrentData) -> EnsembleWeights:
    """Return the weights of an ensemble.

    Raises OutdatedError if it was fitted on another split into folds, UserError if the file is damaged.
    """
    weights = read_weights(current.workspace.run_dir(current.challenge.name, name), current.challenge)
    n_folds = {len(weights.by_fold), len(weights.study_mean.by_fold)}
    now = {"split": current.folds.identity.split}
    if n_folds != {current.folds.n_folds} or current.find_differences(weights.provenance, now, None):
        _raise_outdated(name, weights, {"split": []})
    return weights


def require_current_members(name: str, weights: EnsembleWeights, current: CurrentData) -> None:
    """Raise OutdatedError if the members' predictions have changed since the ensemble was fitted.

    Changed labels are not an error; `collect_notes` reports them.
    """
    now = select_parts(["predictions"], oof_provenance(weights.members, current))
    if found := current.find_differences(weights.provenance, now, None):
        _raise_outdated(name, weights, found)


def _raise_outdated(name: str, weights: EnsembleWeights, found: Mapping[str, list[str]]) -> NoReturn:
    raise OutdatedError(
        f"The ensemble {name} is outdated: it was fitted on {describe_differences(found)} than the current "
        f"ones. Renew it with: {weights.command(name)} --force"
    )


def collect_notes(name: str, split: str, current: CurrentData) -> list[str]:
    """Return the notes that are printed when a run or an ensemble is calibrated, scored or submitted.

    They name unfinished folds (--partial), a split by image, rows that do not count, images whose pixels
    could not be compared, training data that has changed since training, and what the initial weights are.
    """
    notes = []
    if current.partial is not None:
        held = ", ".join(map(str, current.partial))
        notes.append(f"uses only the finished folds {held} of {current.folds.n_folds} (--partial)")
    source = current.rows.notes if split == "oof" else current.folds.leakage_notes
    notes += source(current.challenge)
    notes += [*current.unknown_pixels_notes(split), *_data_changes(name, current)]
    return notes + initial_weights_notes([name], current.challenge, current.workspace)


def initial_weights_notes(names: Iterable[str], challenge: Challenge, workspace: Workspace) -> list[str]:
    """Return the notes on the initial weights of models and of members of ensembles, each once.

    A note that is not true of all of them starts with their names.
    """
    models_of: dict[str, list[str]] = {}
    models = dict.fromkeys(model for name in names for model in _models(name, challenge, workspace))
    for model in models:
        records = _run_records(workspace.run_dir(challenge.name, model), challenge).values()
        notes = (note for record in records for note in weights_notes(record.initial_weights, challenge))
        for note in dict.fromkeys(notes):
            models_of.setdefault(note, []).append(model)
    return [
        note if len(found) == len(models) else f"{listing(found)}: {note}"
        for note, found in models_of.items()
    ]


def _models(name: str, challenge: Challenge, workspace: Workspace) -> tuple[str, ...]:
    """Return the members that an ensemble uses, or the name of the model itself."""
    run_dir = workspace.run_dir(challenge.name, name)
    return read_weights(run_dir, challenge).active_members if is_ensemble(run_dir) else (name,)


def _run_records(run_dir: Path, challenge: Challenge) -> dict[Path, RunRecord]:
    """Return run.json of every fold by its folder; the stages that need a damaged file report the damage."""
    records = {}
    for directory in fold_dirs(run_dir):
        if (directory / RUN).is_file():
            with suppress(UserError):
                records[directory] = read_run_record(directory, challenge.name)
    return records


def _data_changes(name: str, current: CurrentData) -> list[str]:
    """Return notes on changed training data, such as "trained on other labels (Mass) (folds 0, 1)".

    An ensemble has the notes of each member, and a note if its weights were fitted on other labels or views.
    """
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    if not is_ensemble(run_dir):
        return _training_data_changes(run_dir, current)
    weights = read_weights(run_dir, current.challenge)
    members = weights.active_members
    notes = [f"{member}: {note}" for member in members for note in _data_changes(member, current)]
    now = select_parts(("labels", "views"), oof_provenance(weights.members, current))
    if not len(current.rows.removed) and (found := current.find_differences(weights.provenance, now, None)):
        notes.append(
            f"its weights were fitted on {describe_differences(found)} than the current ones: "
            f"{weights.command(name)}"
        )
    return notes


def _training_data_changes(run_dir: Path, current: CurrentData) -> list[str]:
    folds_of: dict[str, list[str]] = {}
    for directory, record in _run_records(run_dir, current.challenge).items():
        try:
            recipe = read_fold_recipe(directory, current.challenge.name)
        except UserError:  # the stage that needs this file reports the damage
            continue
        if changes := current.data_changes(record, recipe):
            folds_of.setdefault(describe_differences(changes), []).append(fold_from_dir(directory))
    return [
        f"trained on {words} than the current ones (fold{'s' * (len(folds) > 1)} {', '.join(folds)})"
        for words, folds in folds_of.items()
    ]


def _logits_digests(names: Iterable[str], split: str, current: CurrentData) -> dict[str, str]:
    """Return the digest of the logits of every predicted fold, by run, folder and split."""
    found = {}
    for name in names:
        for directory in fold_dirs(current.workspace.run_dir(current.challenge.name, name)):
            path = directory / f"{split}.parquet"
            held = directory.name == REFIT or int(fold_from_dir(directory)) in current.folds.fold_numbers
            if held and path.is_file():
                command = predict_command(name, current.challenge.name, split)
                found[f"{name}/{directory.name}/{split}"] = read_meta(path, command).values
    return found
