"""calibration.json: maps from logits to calibrated probabilities, per class, of a run or an ensemble."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from pydantic import model_validator
from scipy.special import expit, logit

from cxrlt.artifacts import Artifact, read_artifact, write_artifact
from cxrlt.calibration import Method, Variant
from cxrlt.calibration.logit_maps import LogitMap, f1_threshold, fit_maps
from cxrlt.ensembles.provenance import final_provenance
from cxrlt.errors import UserError, listing
from cxrlt.predictions.current_data import CurrentData
from cxrlt.provenance import OutdatedError, Provenance, describe_differences
from cxrlt.system.locks import lock_folder

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """A map of logits and a probability threshold for every class, by class name."""

    method: Method
    maps: Mapping[str, LogitMap]
    thresholds: Mapping[str, float]

    def apply(self, logits: pd.DataFrame, variant: Variant) -> pd.DataFrame:
        """Return mapped logits; logits and result have the index image_id and one column per class.

        The sigmoid of "calibrated" is the probability of the class. The sigmoid of "f1" is 0.5 at the
        threshold with the best expected F1. No variant changes the ranking within a class.
        """
        if variant == "raw":
            return logits
        names = [str(name) for name in logits]
        mapped = {name: self.maps[name](logits[name].to_numpy(np.float64)) for name in names}
        frame = pd.DataFrame(mapped, index=logits.index)
        return frame if variant == "calibrated" else frame - logit(pd.Series(self.thresholds)[names])


def fit_calibration(method: Method, logits: pd.DataFrame, labels: pd.DataFrame) -> Calibration:
    """Fit maps and thresholds on logits and labels (index image_id, one column per class).

    `labels` (1, 0 or NaN) must have all rows of `logits`. Cells with NaN in either do not count.
    """
    labels = labels.loc[logits.index]
    classes = {}
    for name in map(str, logits):
        known = (labels[name].notna() & logits[name].notna()).to_numpy()
        z, label = logits[name].to_numpy(np.float64)[known], labels[name].to_numpy()[known]
        classes[name] = (z, label == 1)
    maps = fit_maps(method, classes)
    return Calibration(
        method, maps, {name: f1_threshold(expit(maps[name](z))) for name, (z, _) in classes.items()}
    )


class CalibrationRecord(Artifact):
    """calibration.json: maps and thresholds, with the provenance of the predictions and labels behind them.

    `partial` has the folds they were fitted on, or None for all folds.
    """

    challenge: str
    calibration: Calibration
    partial: tuple[int, ...] | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _usable(self) -> Self:
        maps, thresholds = self.calibration.maps, self.calibration.thresholds
        if set(maps) != set(thresholds):
            raise ValueError("maps and thresholds have different classes")
        for name, each in maps.items():
            at, to = np.array(each.steps).reshape(-1, 2).T
            if not (each.slope > 0 and (np.diff(at) > 0).all() and (np.diff(to) >= 0).all()):
                raise ValueError(f"{name}: its map is not increasing")
            if not 0 < thresholds[name] < 1:
                raise ValueError(f"{name}: the threshold must be between 0 and 1")
        return self


def write_calibration(name: str, current: CurrentData, calibration: Calibration) -> Path:
    """Write calibration.json with its provenance into the folder of the run, and return its path."""
    challenge = current.challenge.name
    path = current.workspace.run_dir(challenge, name) / CALIBRATION
    record = CalibrationRecord(
        challenge=challenge,
        calibration=calibration,
        partial=current.partial,
        provenance=calibration_provenance(name, current),
    )
    with lock_folder(path.parent, wait=True):
        write_artifact(path, record)
    return path


def read_calibration(name: str, current: CurrentData) -> Calibration:
    """Return the calibration of a run or an ensemble.

    Raises UserError with the command that fits it if it is missing or damaged, and OutdatedError if folds,
    labels or out-of-fold predictions have changed since.
    """
    challenge = current.challenge
    path = current.workspace.run_dir(challenge.name, name) / CALIBRATION
    command = f"cxrlt calibrate {name} --challenge {challenge.name}"
    # cxrlt calibrate always fits again, so it has no --force
    record = read_artifact(path, CalibrationRecord, command, renewed_by=command)
    if set(record.calibration.maps) != set(challenge.classes):
        odd = sorted(set(record.calibration.maps) ^ set(challenge.classes))
        raise UserError(
            f"{path} does not have the classes of {challenge.name}: {listing(odd)}. Fit it with: {command}"
        )
    if found := current.find_differences(record.provenance, calibration_provenance(name, current), None):
        raise OutdatedError(
            f"{path} was fitted on {describe_differences(found)} than the current ones. "
            f"Fit it with: {command}"
        )
    return record.calibration


def calibration_provenance(name: str, current: CurrentData) -> Provenance:
    """Return the provenance that a calibration of a run or an ensemble would have now."""
    return final_provenance(name, "oof", current) | current.labels_and_views
