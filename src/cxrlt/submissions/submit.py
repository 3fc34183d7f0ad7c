"""The stage `cxrlt submit`: write the predictions of a model or an ensemble as the file for the server."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import cxrlt
from cxrlt.artifacts import Workspace
from cxrlt.calibration import Variant
from cxrlt.calibration.artifact import CALIBRATION, Calibration, read_calibration
from cxrlt.calibration.calibrate import calibrate, require_multi_label
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import get_current_data, load_final_logits
from cxrlt.ensembles.provenance import collect_notes
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import WEIGHTS_FILE, is_ensemble
from cxrlt.predictions.standardise import to_probabilities
from cxrlt.predictions.store import predict_command
from cxrlt.submissions.read import CODE_FOLDER
from cxrlt.submissions.record import SubmissionRecord, submission_provenance, write_record
from cxrlt.submissions.write import IncompleteError, SubmissionFiles, write_submission

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
) -> SubmissionFiles:
    """Write, validate and zip the submission of the run or ensemble `name` for `split`.

    `origin` is the challenge of the run (default: `challenge`); its classes are matched by name. Files are
    always made from the current predictions; the same predictions give the same bytes. A `variant` other than
    "raw" uses the run's calibration, and fits it first if it is missing or outdated. `partial` uses the
    finished folds only. Changed training data is a note of the result and in provenance.json.

    Raises IncompleteError with the command that predicts missing rows, and UserError if `origin` lacks a
    class, if the file would be rejected, or if a single-label task or a refit has to be calibrated.
    """
    challenge.require_split(split)
    source = origin or challenge
    if unknown := [each for each in challenge.classes if each not in source.classes]:
        raise UserError(
            f"{name} of {source.name} cannot be submitted to {challenge.name}: it does not predict "
            f"{listing(unknown)}."
        )
    source_workspace = workspace if source.name == challenge.name else Workspace(workspace.root)
    current = get_current_data(source, source_workspace, name, partial=partial)
    logits = load_final_logits(name, split, current).logits
    if variant != "raw":
        require_multi_label(challenge, name)
        logits = _calibration(name, current).apply(logits, variant)
    final = _probabilities(challenge, source, logits)
    code = code_files(source, workspace, name, calibrated=variant != "raw") if with_code else None
    try:
        written = write_submission(challenge, workspace, name, split, final, code)
    except IncompleteError as error:
        command = f"{predict_command(name, source.name, split)} --force"
        raise IncompleteError(f"{name}: {error} Predict them with: {command}") from None
    record = _record(name, split, current, variant, with_code)
    write_record(challenge, workspace, record)
    return replace(written, notes=record.notes)


def _probabilities(challenge: Challenge, source: Challenge, logits: pd.DataFrame) -> pd.DataFrame:
    """Return probabilities; in single-label tasks, of the challenge's classes only, with the sum 1."""
    if challenge.task == "single_label":
        return to_probabilities(logits[list(challenge.classes)], "single_label")
    return to_probabilities(logits, source.task)


def _record(
    name: str, split: str, current: CurrentData, variant: Variant, with_code: bool
) -> SubmissionRecord:
    return SubmissionRecord(
        name=name,
        origin=current.challenge.name,
        split=split,
        variant=variant,
        with_code=with_code,
        partial=current.partial,
        notes=tuple(collect_notes(name, split, current)),
        provenance=submission_provenance(name, split, variant, current),
    )


def _calibration(name: str, current: CurrentData) -> Calibration:
    try:
        return read_calibration(name, current)
    except UserError:  # missing or outdated
        partial = current.partial is not None
        report = calibrate(current.challenge, current.workspace, name, partial=partial)
        print(f"calibrate {name}: {report.calibration.method} ({report.path})")
        return report.calibration


def code_files(challenge: Challenge, workspace: Workspace, name: str, *, calibrated: bool) -> dict[str, Path]:
    """Return the files for --with-code, by their name in the zip: this package and the run's configuration.

    `name` is a run or an ensemble of `challenge`. `calibrated` adds its calibration.json.
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
        models = list(read_weights(run_dir, challenge).active_members)
    if calibrated:
        files[f"runs/{name}/{CALIBRATION}"] = run_dir / CALIBRATION
    for model in models:
        for path in workspace.run_dir(challenge.name, model).glob("*/config.yaml"):
            files[f"runs/{model}/{path.parent.name}/config.yaml"] = path
    return {CODE_FOLDER + item: path for item, path in files.items()}
