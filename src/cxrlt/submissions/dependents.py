"""What is outdated once a stage was done again, with the commands that renew it, in their order."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrlt.artifacts import Workspace
from cxrlt.calibration.fitted import CALIBRATION, read_calibration
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.current import require_same_predictions, weights_of_split
from cxrlt.ensembles.ensemble import is_predicted
from cxrlt.ensembles.weights import EnsembleWeights, read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import is_ensemble, run_names
from cxrlt.predictions.store import open_predictions, predict_command
from cxrlt.predictions.trained import fold_dirs, recipe_of
from cxrlt.provenance import OutdatedError, digest_of_weights, in_words
from cxrlt.submissions.record import is_outdated, records
from cxrlt.training.record import Origin, RunRecord, read_run
from cxrlt.training.run_paths import RUN, WEIGHTS, fold_of, train_fold_command, train_run_command, unit_dir

SPLITS = ("oof", "dev", "test")


@dataclass(frozen=True)
class Outdated:
    """An artifact that was made of something else than there is now, and the command that renews it."""

    what: str
    renew: str

    def __str__(self) -> str:
        return f"{self.what}: {self.renew}"


def outdated_listing(
    challenge: Challenge, workspace: Workspace, names: Collection[str] | None = None
) -> str | None:
    """A line for each that is outdated and depends on the runs `names` (default: any); None if nothing is."""
    found = list(outdated(challenge, workspace, names))
    return "\n  ".join(["outdated now:", *map(str, found)]) if found else None


def outdated(
    challenge: Challenge, workspace: Workspace, names: Collection[str] | None = None
) -> Iterator[Outdated]:
    """Trainings, predictions, ensembles, calibrations and submissions that are outdated, in that order."""
    present = Present(challenge, workspace)
    there = run_names(challenge.name, workspace)
    ensembles = {name: _weights(present, name) for name in there if is_ensemble(_run_dir(present, name))}
    models, chosen = [name for name in there if name not in ensembles], set(there if names is None else names)
    for name in models:
        yield from _trainings(present, name, chosen)
    for name in models:
        if name in chosen:
            yield from _predictions(present, name)
    depending = [name for name in there if name in chosen or _uses(ensembles.get(name), chosen)]
    for name in depending:
        if ensembles.get(name):
            yield from _ensemble(present, name, ensembles[name])
    for name in depending:
        yield from _calibration(present, name)
    for record in records(challenge, workspace):
        if record.name in depending and is_outdated(record, present):
            what = f"submission of {record.name} for {record.split}"
            yield Outdated(what, record.command(challenge.name))


def _run_dir(present: Present, name: str) -> Path:
    return present.workspace.run_dir(present.challenge.name, name)


def _weights(present: Present, name: str) -> EnsembleWeights | None:
    try:
        return read_weights(_run_dir(present, name), present.challenge)
    except UserError:  # damaged: the stage that reads it says so
        return None


def _uses(weights: EnsembleWeights | None, names: Collection[str]) -> bool:
    return weights is not None and any(member in names for member in weights.members)


def _trainings(present: Present, name: str, chosen: Collection[str]) -> Iterator[Outdated]:
    """Folds of another split, of other data, or that started from weights which have been replaced."""
    run_dir, challenge = _run_dir(present, name), present.challenge.name
    described = {directory: _description(directory, challenge) for directory in fold_dirs(run_dir)}
    if name in chosen and _is_of_another_split(present, described):
        command = f"{train_run_command(run_dir, challenge)} --force"
        yield Outdated(f"{name} (trained on another split into folds)", command)
        return
    for directory, record in described.items():
        if record is None:
            continue
        fold = fold_of(directory)
        command = f"{train_fold_command(run_dir, fold, challenge)} --force"
        if record.started_from and _is_replaced(present, record.started_from, chosen):
            yield Outdated(f"{name} fold {fold} (started from former weights)", command)
        if name in chosen and (why := _changes(present, directory, record)):
            yield Outdated(f"{name} fold {fold} (trained on {why})", command)


def _changes(present: Present, directory: Path, record: RunRecord) -> str | None:
    try:
        recipe = recipe_of(directory, present.challenge.name)
    except UserError:
        return None
    changes = present.changes_in_data(record, recipe)
    return in_words(changes) if changes else None


def _is_replaced(present: Present, origin: Origin, chosen: Collection[str]) -> bool:
    """Whether the weights that a fold started from are one of the chosen runs' and there are others now."""
    source = origin.run.removeprefix(f"{present.challenge.name}:")
    if source not in chosen:
        return False
    place = unit_dir(_run_dir(present, source), origin.fold) / WEIGHTS
    return place.is_file() and digest_of_weights(place) != origin.weights


def _description(directory: Path, challenge: str) -> RunRecord | None:
    try:
        return read_run(directory, challenge) if (directory / RUN).is_file() else None
    except UserError:  # damaged: the stage that needs it says so
        return None


def _is_of_another_split(present: Present, described: dict[Path, RunRecord | None]) -> bool:
    known = [record for record in described.values() if record is not None]
    return not all(present.folds.has_trained(record.made_of, record.fold) for record in known)


def _predictions(present: Present, name: str) -> Iterator[Outdated]:
    """By split; a fold that lacks one which others have is to be predicted too."""
    directories, challenge = fold_dirs(_run_dir(present, name)), present.challenge.name
    if _is_of_another_split(present, {each: _description(each, challenge) for each in directories}):
        return  # training it again comes first
    for split in SPLITS:
        files = {directory: directory / f"{split}.parquet" for directory in directories}
        if not any(path.is_file() for path in files.values()):
            continue
        reasons = {fold_of(d): _why(path, split, present) for d, path in files.items()}
        if behind := {fold: why for fold, why in reasons.items() if why}:
            which = listing(behind)
            why = "; ".join(dict.fromkeys(behind.values()))
            what = f"{split} predictions of {name}, fold{'s' * (len(behind) > 1)} {which} ({why})"
            yield Outdated(what, predict_command(name, challenge, split))


def _why(path: Path, split: str, present: Present) -> str | None:
    if not path.is_file():
        return "not there" if (path.parent / WEIGHTS).is_file() else None
    try:
        file = open_predictions(path)
        now = present.made_of_predictions(path.parent, file.ids, split)
        found = present.differing(file.meta.made_of, now, fold_of(path.parent))
        if not found and len(present.changed_pixels(file.ids, file.pixels, split)):
            found = {"pixels": []}
    except UserError:
        return "damaged"
    return f"made with {in_words(found)}" if found else None


def _ensemble(present: Present, name: str, weights: EnsembleWeights) -> Iterator[Outdated]:
    command = f"{weights.command(name)} --force"
    try:
        require_same_predictions(name, weights_of_split(name, present), present)
    except OutdatedError:
        yield Outdated(f"ensemble {name} (fitted on other predictions of its members)", command)
        return
    for split in SPLITS:
        if (_run_dir(present, name) / f"{split}.parquet").is_file() and not is_predicted(
            name, split, present
        ):
            what = f"{split} predictions of {name} (made of others)"
            yield Outdated(what, predict_command(name, present.challenge.name, split))
    if found := present.differing(weights.made_of, present.labels_and_views, None):
        yield Outdated(f"ensemble {name} (fitted on {in_words(found)})", weights.command(name))


def _calibration(present: Present, name: str) -> Iterator[Outdated]:
    if not (_run_dir(present, name) / CALIBRATION).is_file():
        return
    try:
        read_calibration(name, present)
    except UserError:
        what = f"calibration of {name} (fitted on other predictions)"
        yield Outdated(what, f"cxrlt calibrate {name} --challenge {present.challenge.name}")
