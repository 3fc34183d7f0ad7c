"""The code a final submission carries: this package, how to run it, and what was trained with it."""

from pathlib import Path

import cxrlt
from cxrlt.artifacts import Workspace
from cxrlt.calibration.fitted import CALIBRATION
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.weights import read_weights
from cxrlt.predictions.run_names import WEIGHTS_FILE, is_ensemble
from cxrlt.submissions.read import CODE_FOLDER

PROJECT_FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "run.sh")


def code_files(challenge: Challenge, workspace: Workspace, name: str, *, calibrated: bool) -> dict[str, Path]:
    """Name in the zip -> file. `name` is a run or an ensemble of `challenge`; `calibrated`: with its maps."""
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
