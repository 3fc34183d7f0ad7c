"""What is outdated once a stage was done anew, with the commands that renew it, in their order."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds, read_folds
from cxrlt.predictions.calibration import CALIBRATION, read_calibration
from cxrlt.predictions.ensemble import is_predicted
from cxrlt.predictions.fingerprint import require_same_evidence
from cxrlt.predictions.fold_files import predict_command
from cxrlt.predictions.identity import OutdatedError, differing, identity_of, in_words
from cxrlt.predictions.runs import holds_run, read_train_rows
from cxrlt.predictions.store import read_meta
from cxrlt.predictions.trained import fold_dirs, fold_of
from cxrlt.predictions.weights import EnsembleWeights, is_ensemble, read_weights
from cxrlt.submissions.record import is_outdated, records
from cxrlt.training.places import REFIT, WEIGHTS, train_command, train_run_command, weights_sha256

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
    folds = read_folds(challenge, workspace)
    there = _run_names(challenge, workspace)
    ensembles = {
        name: _weights(challenge, workspace, name)
        for name in there
        if is_ensemble(workspace.run_dir(challenge.name, name))
    }
    models, chosen = [name for name in there if name not in ensembles], set(there if names is None else names)
    for name in models:
        yield from _trainings(challenge, workspace, name, chosen, folds)
    for name in models:
        if name in chosen:
            yield from _predictions(challenge, workspace, name, folds)
    depending = [name for name in there if name in chosen or _uses(ensembles.get(name), chosen)]
    for name in depending:
        if name in ensembles:
            yield from _ensemble(challenge, workspace, name, ensembles[name], folds)
    for name in depending:
        yield from _calibration(challenge, workspace, name)
    for record in records(challenge, workspace):
        if record.name in depending and is_outdated(record, challenge, workspace):
            what = f"submission of {record.name} for {record.split}"
            yield Outdated(what, record.command(challenge.name))


def _run_names(challenge: Challenge, workspace: Workspace) -> list[str]:
    """Of all models and ensembles, those of studies included."""
    root = workspace.folds_dir(challenge.name)
    return sorted(
        folder.relative_to(root).as_posix()
        for folder in root.rglob("*")
        if folder.is_dir() and holds_run(folder)
    )


def _weights(challenge: Challenge, workspace: Workspace, name: str) -> EnsembleWeights | None:
    try:
        return read_weights(workspace.run_dir(challenge.name, name), challenge)
    except UserError:  # damaged: whoever reads it is told
        return None


def _uses(weights: EnsembleWeights | None, names: Collection[str]) -> bool:
    return weights is not None and any(member in names for member in weights.members)


def _trainings(
    challenge: Challenge, workspace: Workspace, name: str, chosen: Collection[str], folds: Folds
) -> Iterator[Outdated]:
    """A run of another split, and folds that started from weights which have been replaced."""
    run_dir = workspace.run_dir(challenge.name, name)
    described = {directory: _description(directory) for directory in fold_dirs(run_dir)}
    if name in chosen and _is_of_another_split(described.values(), folds):
        command = f"{train_run_command(run_dir, challenge.name)} --force"
        yield Outdated(f"{name} (trained on another folds.csv)", command)
        return
    for directory, values in described.items():
        origin = values.get("started_from")
        if isinstance(origin, dict) and _is_replaced(challenge, workspace, origin, chosen):
            command = f"{train_command(run_dir, fold_of(directory), challenge.name)} --force"
            yield Outdated(f"{name} fold {fold_of(directory)} (started from former weights)", command)


def _is_replaced(challenge: Challenge, workspace: Workspace, origin: dict, chosen: Collection[str]) -> bool:
    """Whether the weights that a fold started from are one of the chosen runs' and there are others now."""
    source, fold = str(origin.get("run")).removeprefix(f"{challenge.name}:"), origin.get("fold")
    if source not in chosen:
        return False
    place = workspace.run_dir(challenge.name, source) / (REFIT if fold == REFIT else f"fold{fold}")
    return (place / WEIGHTS).is_file() and weights_sha256(place) != origin.get("sha256")


def _description(directory: Path) -> dict:
    try:
        return read_json(directory / "run.json", "cxrlt train")
    except UserError:  # none, or damaged: whoever needs it is told
        return {}


def _is_of_another_split(described: Collection[dict], folds: Folds) -> bool:
    return any(values.get("folds_sha256", folds.sha256) != folds.sha256 for values in described)


def _predictions(challenge: Challenge, workspace: Workspace, name: str, folds: Folds) -> Iterator[Outdated]:
    """By split; a fold that lacks one which others have is to be predicted too."""
    directories = fold_dirs(workspace.run_dir(challenge.name, name))
    if _is_of_another_split([_description(directory) for directory in directories], folds):
        return  # training it anew comes first
    for split in SPLITS:
        files = {directory: directory / f"{split}.parquet" for directory in directories}
        if not any(path.is_file() for path in files.values()):
            continue
        reasons = {fold_of(d): _why(path, challenge, folds) for d, path in files.items()}
        if behind := {fold: why for fold, why in reasons.items() if why}:
            which = listing(behind)
            why = "; ".join(dict.fromkeys(behind.values()))
            what = f"{split} predictions of {name}, fold{'s' * (len(behind) > 1)} {which} ({why})"
            yield Outdated(what, predict_command(name, challenge.name, split))


def _why(path: Path, challenge: Challenge, folds: Folds) -> str | None:
    if not path.is_file():
        return "not there" if (path.parent / WEIGHTS).is_file() else None
    try:
        parts = differing(read_meta(path), identity_of(path.parent, challenge, folds))
    except UserError:
        return "damaged"
    return f"made with {in_words(parts)}" if parts else None


def _ensemble(
    challenge: Challenge, workspace: Workspace, name: str, weights: EnsembleWeights | None, folds: Folds
) -> Iterator[Outdated]:
    if weights is None:
        return
    command = f"{weights.command(name, challenge.name)} --force"
    if weights.folds_sha256 != folds.sha256:
        yield Outdated(f"ensemble {name} (fitted on another folds.csv)", command)
        return
    try:
        require_same_evidence(workspace, name, weights, challenge)
    except OutdatedError:
        yield Outdated(f"ensemble {name} (fitted on other predictions of its members)", command)
        return
    run_dir = workspace.run_dir(challenge.name, name)
    for split in SPLITS:
        if (run_dir / f"{split}.parquet").is_file() and not is_predicted(challenge, workspace, name, split):
            what = f"{split} predictions of {name} (made of others)"
            yield Outdated(what, predict_command(name, challenge.name, split))


def _calibration(challenge: Challenge, workspace: Workspace, name: str) -> Iterator[Outdated]:
    if not (workspace.run_dir(challenge.name, name) / CALIBRATION).is_file():
        return
    try:
        read_calibration(challenge, workspace, name, read_train_rows(challenge, workspace))
    except UserError:
        what = f"calibration of {name} (fitted on other predictions)"
        yield Outdated(what, f"cxrlt calibrate {name} --challenge {challenge.name}")
