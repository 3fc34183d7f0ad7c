"""weights.json: what an ensemble is. Predictions and submissions of an ensemble are computed from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrlt.artifacts import name_of_run, read_json, write_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.predictions.standardise import Constants

WEIGHTS_FILE = "weights.json"


@dataclass(frozen=True)
class EnsembleWeights:
    """How members are averaged, and what was known when that was chosen.

    `members` maps a run's name to its weight, `constants` map the averaged scores back to logits, `nested`
    holds the nested out-of-fold score of every candidate, `fingerprint` identifies the members' predictions.
    """

    kind: str
    members: Mapping[str, float]
    study_mean: bool
    constants: Constants
    nested: Mapping[str, float]
    folds_sha256: str
    fingerprint: str

    @property
    def used(self) -> dict[str, float]:
        """The members that have a say."""
        return {name: weight for name, weight in self.members.items() if weight > 0}

    def write(self, run_dir: Path, challenge: str) -> None:
        values = vars(self) | {"constants": self.constants.to_json(), "members": dict(self.members)}
        write_json(run_dir / WEIGHTS_FILE, {"challenge": challenge} | values)


def is_ensemble(run_dir: Path) -> bool:
    return (run_dir / WEIGHTS_FILE).is_file()


def read_weights(run_dir: Path, challenge: Challenge) -> EnsembleWeights:
    """The weights of an ensemble, summing to 1. Raises UserError if they are not usable numbers."""
    path = run_dir / WEIGHTS_FILE
    again = (
        f"cxrlt ensemble {name_of_run(run_dir, challenge.name)} --members A B --challenge {challenge.name}"
    )
    values = read_json(path, again)
    missing = {*EnsembleWeights.__dataclass_fields__, "challenge"} - set(values)
    if missing or values["challenge"] != challenge.name:
        wrong = f"lacks {', '.join(sorted(missing))}" if missing else f"is of {values['challenge']}"
        raise UserError(f"{path} {wrong}. Make it again with: {again} --force")
    weights = np.array(list(values["members"].values()), dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"{path}: the weights of members must be numbers >= 0, not all of them 0.")
    shares = weights / weights.sum()
    values |= {
        "members": {name: float(share) for name, share in zip(values["members"], shares, strict=True)},
        "constants": Constants.from_json(values["constants"], challenge.classes, path),
    }
    return EnsembleWeights(**{key: values[key] for key in EnsembleWeights.__dataclass_fields__})
