"""calibration.json: what makes probabilities of a run's or an ensemble's logits, class by class."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from cxrlt.artifacts import Workspace, sha256_of, write_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.locks import exclusive
from cxrlt.predictions.choices import METHODS, Method, Variant
from cxrlt.predictions.fingerprint import evidence_fingerprint
from cxrlt.predictions.identity import OutdatedError
from cxrlt.predictions.logit_maps import LogitMap, fit_maps
from cxrlt.predictions.runs import TrainRows
from cxrlt.predictions.thresholds import f1_threshold
from cxrlt.predictions.weights import WEIGHTS_FILE, is_ensemble, read_weights

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """A map of logits and a probability threshold for every class, by name."""

    method: Method
    maps: Mapping[str, LogitMap]
    thresholds: Mapping[str, float]

    def apply(self, logits: pd.DataFrame, variant: Variant) -> pd.DataFrame:
        """Logits (index image_id, a column per class) whose sigmoid is meant; the order in a class stays.

        "calibrated": the probability that the class is there. "f1": .5 stands where F1 is best.
        """
        if variant == "raw":
            return logits
        frame = pd.DataFrame({name: self.maps[name](logits[name].astype(np.float64)) for name in logits})
        return frame if variant == "calibrated" else frame - logit(pd.Series(self.thresholds)[list(frame)])


def fit_calibration(method: Method, logits: pd.DataFrame, labels: pd.DataFrame) -> Calibration:
    """Maps and thresholds of these rows; `labels` (1, 0, NaN) have their ids. A blank row does not count."""
    labels = labels.loc[logits.index]
    classes = {}
    for name in logits:
        known = (labels[name].notna() & logits[name].notna()).to_numpy()
        z, label = logits[name].to_numpy(np.float64)[known], labels[name].to_numpy()[known]
        classes[name] = (z, label == 1)
    maps = fit_maps(method, classes)
    return Calibration(
        method, maps, {name: f1_threshold(expit(maps[name](z))) for name, (z, _) in classes.items()}
    )


def write_calibration(
    challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows, calibration: Calibration
) -> Path:
    """Write calibration.json into the run's folder, with what it was fitted on."""
    path = workspace.run_dir(challenge.name, name) / CALIBRATION
    classes = {
        name: vars(each) | {"threshold": calibration.thresholds[name]}
        for name, each in calibration.maps.items()
    }
    made_of = {
        "folds_sha256": rows.folds.sha256,
        "fingerprint": fingerprint(challenge, workspace, name, rows),
    }
    with exclusive(path.parent, wait=True):
        write_json(
            path, {"challenge": challenge.name, "method": calibration.method} | made_of | {"classes": classes}
        )
    return path


def read_calibration(challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows) -> Calibration:
    """The calibration of a run or an ensemble.

    Raises UserError naming the command that mends it if there is none, if it is not usable, or if folds,
    labels or out-of-fold predictions have changed since.
    """
    path = workspace.run_dir(challenge.name, name) / CALIBRATION
    again = f"Fit it with: cxrlt calibrate {name} --challenge {challenge.name}"
    if not path.is_file():
        raise UserError(f"{path} does not exist. {again}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        calibration = _parsed(values)
        made_of = values["folds_sha256"], values["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not a calibration ({error!r}). {again}") from error
    if set(calibration.maps) != set(challenge.classes):
        odd = sorted(set(calibration.maps) ^ set(challenge.classes))
        raise UserError(f"{path} does not hold the classes of {challenge.name}: {listing(odd)}. {again}")
    if made_of != (rows.folds.sha256, fingerprint(challenge, workspace, name, rows)):
        raise OutdatedError(
            f"{path} was fitted on other folds, labels or predictions than there are. {again}"
        )
    return calibration


def fingerprint(challenge: Challenge, workspace: Workspace, name: str, rows: TrainRows) -> str:
    """A hash of all that the out-of-fold rows of a run or an ensemble are computed from, and their labels."""
    run_dir = workspace.run_dir(challenge.name, name)
    run_dirs, recipes = [run_dir], sorted(run_dir.glob("fold[0-9]*/config.yaml"))
    if is_ensemble(run_dir):
        members = read_weights(run_dir, challenge).members
        run_dirs, recipes = [workspace.run_dir(challenge.name, each) for each in members], []
    evidence = evidence_fingerprint(run_dirs, rows.table, challenge.classes)
    how = [sha256_of(path) for path in (run_dir / WEIGHTS_FILE, *recipes) if path.is_file()]
    return hashlib.sha256(" ".join([evidence, *how]).encode()).hexdigest()


def _parsed(values: Mapping[str, object]) -> Calibration:
    """Raises ValueError, KeyError or TypeError for what `write_calibration` would not have written."""
    if values["method"] not in METHODS:
        raise ValueError(f"method {values['method']!r}")
    maps, thresholds = {}, {}
    for name, each in values["classes"].items():
        steps = tuple((float(at), float(to)) for at, to in each["steps"])
        maps[name] = LogitMap(float(each["slope"]), float(each["offset"]), steps)
        thresholds[name] = float(each["threshold"])
        at, to = np.array(steps).reshape(-1, 2).T
        rising = maps[name].slope > 0 and (np.diff(at) > 0).all() and (np.diff(to) >= 0).all()
        finite = np.isfinite([maps[name].slope, maps[name].offset, *at, *to]).all()
        if not (rising and finite and 0 < thresholds[name] < 1):
            raise ValueError(f"{name}: slope, offset, steps or threshold")
    return Calibration(values["method"], maps, thresholds)
