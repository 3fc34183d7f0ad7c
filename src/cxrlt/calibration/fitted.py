"""calibration.json: what makes probabilities of a run's or an ensemble's logits, class by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from pydantic import model_validator
from scipy.special import expit, logit

from cxrlt.artifacts import Artifact, read_model, write_model
from cxrlt.calibration import Method, Variant
from cxrlt.calibration.logit_maps import LogitMap, f1_threshold, fit_maps
from cxrlt.ensembles.current import made_of_final
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.provenance import MadeOf, OutdatedError, in_words
from cxrlt.system.locks import exclusive

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


class CalibrationRecord(Artifact):
    """calibration.json: maps and thresholds, and the predictions and labels that they were fitted on.

    `partial` are the folds they were fitted on where that is not all of them.
    """

    challenge: str
    calibration: Calibration
    partial: tuple[int, ...] | None = None
    made_of: MadeOf

    @model_validator(mode="after")
    def _usable(self) -> Self:
        maps, thresholds = self.calibration.maps, self.calibration.thresholds
        if set(maps) != set(thresholds):
            raise ValueError("maps and thresholds are not of the same classes")
        for name, each in maps.items():
            at, to = np.array(each.steps).reshape(-1, 2).T
            if not (each.slope > 0 and (np.diff(at) > 0).all() and (np.diff(to) >= 0).all()):
                raise ValueError(f"{name}: its map does not rise")
            if not 0 < thresholds[name] < 1:
                raise ValueError(f"{name}: a threshold lies between 0 and 1")
        return self


def write_calibration(name: str, present: Present, calibration: Calibration) -> Path:
    """Write calibration.json into the run's folder, with what it was fitted on."""
    challenge = present.challenge.name
    path = present.workspace.run_dir(challenge, name) / CALIBRATION
    record = CalibrationRecord(
        challenge=challenge,
        calibration=calibration,
        partial=present.partial,
        made_of=made_of_calibration(name, present),
    )
    with exclusive(path.parent, wait=True):
        write_model(path, record)
    return path


def read_calibration(name: str, present: Present) -> Calibration:
    """The calibration of a run or an ensemble.

    Raises UserError naming the command that fits it if there is none or it is not usable, and OutdatedError
    if folds, labels or out-of-fold predictions have changed since.
    """
    challenge = present.challenge
    path = present.workspace.run_dir(challenge.name, name) / CALIBRATION
    command = f"cxrlt calibrate {name} --challenge {challenge.name}"
    # calibrate always fits again: it has no --force
    record = read_model(path, CalibrationRecord, command, replaced_by=command)
    if set(record.calibration.maps) != set(challenge.classes):
        odd = sorted(set(record.calibration.maps) ^ set(challenge.classes))
        raise UserError(
            f"{path} does not hold the classes of {challenge.name}: {listing(odd)}. Fit it with: {command}"
        )
    if found := present.differing(record.made_of, made_of_calibration(name, present), None):
        raise OutdatedError(
            f"{path} was fitted on {in_words(found)} than there are now. Fit it with: {command}"
        )
    return record.calibration


def made_of_calibration(name: str, present: Present) -> MadeOf:
    """What a calibration of a run or an ensemble would be fitted on now."""
    return made_of_final(name, "oof", present) | present.labels_and_views
