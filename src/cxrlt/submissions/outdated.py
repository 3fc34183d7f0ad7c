"""Find outdated artifacts and list the commands that renew them, in the order to run them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrlt.artifacts import Workspace
from cxrlt.calibration.artifact import CALIBRATION, read_calibration
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.ensemble import is_predicted
from cxrlt.ensembles.provenance import load_current_weights, require_current_members
from cxrlt.ensembles.weights import EnsembleWeights, read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import is_ensemble, run_names
from cxrlt.predictions.store import open_predictions, predict_command
from cxrlt.predictions.trained_folds import fold_dirs, read_fold_recipe
from cxrlt.provenance import OutdatedError, describe_differences, digest_of_weights
from cxrlt.submissions.record import is_outdated, read_records
from cxrlt.training.record import Origin, RunRecord, read_run_record
from cxrlt.training.run_paths import (
    RUN,
    WEIGHTS,
    fold_dir,
    fold_from_dir,
    train_fold_command,
    train_run_command,
)

SPLITS = ("oof", "dev", "test")


@dataclass(frozen=True)
class Outdated:
    """An artifact that no longer matches its inputs, and the command that renews it."""

    artifact: str
    command: str

    def __str__(self) -> str:
        return f"{self.artifact}: {self.command}"


def describe_outdated(
    challenge: Challenge, workspace: Workspace, names: Collection[str] | None = None
) -> str | None:
    """Return a line for each artifact that `find_outdated` finds, or None."""
    found = list(find_outdated(challenge, workspace, names))
    return "\n  ".join(["outdated now:", *map(str, found)]) if found else None


def find_outdated(
    challenge: Challenge, workspace: Workspace, names: Collection[str] | None = None
) -> Iterator[Outdated]:
    """Yield outdated trained folds, predictions, ensembles, calibrations and submissions, in this order.

    They belong to the runs `names` (default: all), or to ensembles and submissions that use these runs.
    """
    current = CurrentData(challenge, workspace)
    all_names = run_names(challenge.name, workspace)
    chosen = set(all_names if names is None else names)
    ensembles = {name: _read_weights(current, name) for name in all_names if _is_ensemble(current, name)}
    models = [name for name in all_names if name not in ensembles]
    for name in models:
        yield from _outdated_training(current, name, chosen)
    for name in models:
        if name in chosen:
            yield from _outdated_predictions(current, name)
    dependent = [name for name in all_names if name in chosen or _uses(ensembles.get(name), chosen)]
    for name in dependent:
        if weights := ensembles.get(name):
            yield from _outdated_ensemble(current, name, weights)
    for name in dependent:
        yield from _outdated_calibration(current, name)
    for record in read_records(challenge, workspace):
        if record.name in dependent and is_outdated(record, current):
            artifact = f"submission of {record.name} for {record.split}"
            yield Outdated(artifact, record.command(challenge.name))


def _run_dir(current: CurrentData, name: str) -> Path:
    return current.workspace.run_dir(current.challenge.name, name)


def _is_ensemble(current: CurrentData, name: str) -> bool:
    return is_ensemble(_run_dir(current, name))


def _read_weights(current: CurrentData, name: str) -> EnsembleWeights | None:
    try:
        return read_weights(_run_dir(current, name), current.challenge)
    except UserError:  # damaged: the stage that reads it reports the damage
        return None


def _uses(weights: EnsembleWeights | None, names: Collection[str]) -> bool:
    return weights is not None and any(member in names for member in weights.members)


def _outdated_training(current: CurrentData, name: str, chosen: Collection[str]) -> Iterator[Outdated]:
    """Yield folds trained on another split or on other data, or from initial weights that were replaced."""
    run_dir, challenge = _run_dir(current, name), current.challenge.name
    records = {directory: _read_record(directory, challenge) for directory in fold_dirs(run_dir)}
    if name in chosen and _has_other_split(current, records):
        command = f"{train_run_command(run_dir, challenge)} --force"
        yield Outdated(f"{name} (trained on another split into folds)", command)
        return
    for directory, record in records.items():
        if record is None:
            continue
        fold = fold_from_dir(directory)
        command = f"{train_fold_command(run_dir, fold, challenge)} --force"
        if record.started_from and _is_replaced(current, record.started_from, chosen):
            yield Outdated(f"{name} fold {fold} (its initial weights were replaced)", command)
        if name in chosen and (why := _changes(current, directory, record)):
            yield Outdated(f"{name} fold {fold} (trained on {why})", command)


def _changes(current: CurrentData, directory: Path, record: RunRecord) -> str | None:
    try:
        recipe = read_fold_recipe(directory, current.challenge.name)
    except UserError:
        return None
    changes = current.data_changes(record, recipe)
    return describe_differences(changes) if changes else None


def _is_replaced(current: CurrentData, origin: Origin, chosen: Collection[str]) -> bool:
    """Return whether the initial weights of a fold belong to a chosen run and have been replaced since."""
    source = origin.run.removeprefix(f"{current.challenge.name}:")
    if source not in chosen:
        return False
    path = fold_dir(_run_dir(current, source), origin.fold) / WEIGHTS
    return path.is_file() and digest_of_weights(path) != origin.weights


def _read_record(directory: Path, challenge: str) -> RunRecord | None:
    try:
        return read_run_record(directory, challenge) if (directory / RUN).is_file() else None
    except UserError:  # damaged: the stage that needs it reports the damage
        return None


def _has_other_split(current: CurrentData, records: dict[Path, RunRecord | None]) -> bool:
    known = [record for record in records.values() if record is not None]
    return not all(current.folds.was_training_split(record.provenance, record.fold) for record in known)


def _outdated_predictions(current: CurrentData, name: str) -> Iterator[Outdated]:
    """Yield outdated predictions by split, including folds that lack a file which other folds have."""
    directories, challenge = fold_dirs(_run_dir(current, name)), current.challenge.name
    if _has_other_split(current, {each: _read_record(each, challenge) for each in directories}):
        return  # it must be trained again first
    for split in SPLITS:
        files = {directory: directory / f"{split}.parquet" for directory in directories}
        if not any(path.is_file() for path in files.values()):
            continue
        checked = {fold_from_dir(d): _why_outdated(path, split, current) for d, path in files.items()}
        if reasons := {fold: reason for fold, reason in checked.items() if reason}:
            why = "; ".join(dict.fromkeys(reasons.values()))
            folds = f"fold{'s' * (len(reasons) > 1)} {listing(reasons)}"
            yield Outdated(
                f"{split} predictions of {name}, {folds} ({why})", predict_command(name, challenge, split)
            )


def _why_outdated(path: Path, split: str, current: CurrentData) -> str | None:
    if not path.is_file():
        return "missing" if (path.parent / WEIGHTS).is_file() else None
    try:
        file = open_predictions(path)
        now = current.predictions_provenance(path.parent, file.ids, split)
        found = current.find_differences(file.meta.provenance, now, fold_from_dir(path.parent))
        if not found and len(current.changed_pixels(file.ids, file.pixels, split)):
            found = {"pixels": []}
    except UserError:
        return "damaged"
    return f"made with {describe_differences(found)}" if found else None


def _outdated_ensemble(current: CurrentData, name: str, weights: EnsembleWeights) -> Iterator[Outdated]:
    command = f"{weights.command(name)} --force"
    try:
        require_current_members(name, load_current_weights(name, current), current)
    except OutdatedError:
        yield Outdated(f"ensemble {name} (fitted on other predictions of its members)", command)
        return
    for split in SPLITS:
        if (_run_dir(current, name) / f"{split}.parquet").is_file() and not is_predicted(
            name, split, current
        ):
            artifact = f"{split} predictions of {name} (made from other predictions of its members)"
            yield Outdated(artifact, predict_command(name, current.challenge.name, split))
    if found := current.find_differences(weights.provenance, current.labels_and_views, None):
        yield Outdated(f"ensemble {name} (fitted on {describe_differences(found)})", weights.command(name))


def _outdated_calibration(current: CurrentData, name: str) -> Iterator[Outdated]:
    if not (_run_dir(current, name) / CALIBRATION).is_file():
        return
    try:
        read_calibration(name, current)
    except UserError:
        artifact = f"calibration of {name} (fitted on other predictions)"
        yield Outdated(artifact, f"cxrlt calibrate {name} --challenge {current.challenge.name}")
