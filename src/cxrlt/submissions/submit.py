"""The stage `cxrlt submit`: from the predictions of a model or an ensemble to the file for the server."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import cxrlt
from cxrlt.artifacts import Workspace
from cxrlt.calibration import Variant
from cxrlt.calibration.calibrate import calibrate, require_multi_label
from cxrlt.calibration.fitted import CALIBRATION, Calibration, read_calibration
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.current import notes_of
from cxrlt.ensembles.final_logits import load_final_logits, present_for
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import WEIGHTS_FILE, is_ensemble
from cxrlt.predictions.standardise import probabilities
from cxrlt.predictions.store import predict_command
from cxrlt.submissions.read import CODE_FOLDER
from cxrlt.submissions.record import Record, made_of_submission, write_record
from cxrlt.submissions.write import IncompleteError, Written, write_submission

PROJECT_FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "run.sh")


def submit(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    split: str = "test",
    *,
    origin: Challenge | None = None,
    variant: Variant = "raw",
    with_code: bool = False,
    partial: bool = False,
) -> Written:
    """Write, validate and zip the submission of `name` for `split`, a run of `origin` (default: `challenge`).

    Classes of another challenge's run are picked by name. Files are always made from the predictions there
    are: the same predictions leave them as they are. A `variant` other than "raw" uses the run's calibration,
    fitted first where there is none for the predictions there are. With `partial` the folds that are finished
    are enough. What the models were trained on that has changed since is a note, and in the record. Raises
    IncompleteError naming the command that predicts missing rows, UserError if `origin` lacks a class or the
    result would be rejected, and for one class per row or a refit that is to be calibrated.
    """
    challenge.require(split)
    source = origin or challenge
    if unknown := [each for each in challenge.classes if each not in source.classes]:
        where = f"{name} of {source.name} cannot be submitted to {challenge.name}"
        raise UserError(f"{where}: it does not predict {listing(unknown)}.")
    place = workspace if source.name == challenge.name else Workspace(workspace.root)
    present = present_for(source, place, name, partial=partial)
    logits = load_final_logits(name, split, present).logits
    if variant != "raw":
        require_multi_label(challenge, name)
        logits = _calibration(name, present).apply(logits, variant)
    final = _probabilities(challenge, source, logits)
    code = code_files(source, workspace, name, calibrated=variant != "raw") if with_code else None
    try:
        written = write_submission(challenge, workspace, name, split, final, code)
    except IncompleteError as error:
        command = f"{predict_command(name, source.name, split)} --force"
        raise IncompleteError(f"{name}: {error} Predict them with: {command}") from None
    record = _record(name, split, present, variant, with_code)
    write_record(challenge, workspace, record)
    return replace(written, notes=record.notes)


def _probabilities(challenge: Challenge, source: Challenge, logits: pd.DataFrame) -> pd.DataFrame:
    """Of the classes of `challenge`, which alone compete where a row has one class."""
    if challenge.task == "single_label":
        return probabilities(logits[list(challenge.classes)], "single_label")
    return probabilities(logits, source.task)


def _record(name: str, split: str, present: Present, variant: Variant, with_code: bool) -> Record:
    return Record(
        name=name,
        origin=present.challenge.name,
        split=split,
        variant=variant,
        with_code=with_code,
        partial=present.partial,
        notes=tuple(notes_of(name, split, present)),
        made_of=made_of_submission(name, split, variant, present),
    )


def _calibration(name: str, present: Present) -> Calibration:
    try:
        return read_calibration(name, present)
    except UserError:  # none yet, or of other predictions
        partial = present.partial is not None
        report = calibrate(present.challenge, present.workspace, name, partial=partial)
        print(f"calibrate {name}: {report.calibration.method} ({report.path})")
        return report.calibration


def code_files(challenge: Challenge, workspace: Workspace, name: str, *, calibrated: bool) -> dict[str, Path]:
    """What a final submission carries: this package, how to run it, and what was trained with it.

    Name in the zip -> file. `name` is a run or an ensemble of `challenge`; `calibrated`: with its maps.
    """
    package = Path(cxrlt.__file__).parent
    files = {
        f"src/cxrlt/{path.relative_to(package).as_posix()}": path
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    if package.parent.name == "src":  # a clone, not an installed package
        files |= {item: path for item in PROJECT_FILES if (path := package.parents[1] / item).is_file()}
    run_dir = workspace.run_dir(challenge.name, name)
    models = [name]
    if is_ensemble(run_dir):
        files[f"runs/{name}/{WEIGHTS_FILE}"] = run_dir / WEIGHTS_FILE
        models = list(read_weights(run_dir, challenge).used)
    if calibrated:
        files[f"runs/{name}/{CALIBRATION}"] = run_dir / CALIBRATION
    for model in models:
        for path in workspace.run_dir(challenge.name, model).glob("*/config.yaml"):
            files[f"runs/{model}/{path.parent.name}/config.yaml"] = path
    return {CODE_FOLDER + item: path for item, path in files.items()}
