"""weights.json: what an ensemble is. Predictions and submissions of an ensemble are computed from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxrlt.artifacts import name_of_run, write_json
from cxrlt.challenges.base import Challenge
from cxrlt.predictions.context import CONTEXT
from cxrlt.predictions.parse import read_parsed
from cxrlt.predictions.view_weights import StudyMean

WEIGHTS_FILE = "weights.json"
Kind = Literal["mean", "greedy", "per_class", "stack"]


@dataclass(frozen=True)
class Combination:
    """How members' scores of a row become one score per class: a sum, class by class.

    `weights` is a frame of classes x members, `context` one of classes x CONTEXT. With a `bias` (per class)
    the sums are logits; without one the weights of a class sum to 1, and the sums are scores as members' are.
    """

    weights: pd.DataFrame
    bias: pd.Series | None = None
    context: pd.DataFrame | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Every member's weight, averaged over the classes."""
        return {name: float(share) for name, share in self.weights.mean().items()}

    @property
    def used(self) -> tuple[str, ...]:
        """The members that have a say."""
        has_a_say = (self.weights != 0).any()
        return tuple(self.weights.columns[has_a_say]) if self.context is None else tuple(self.weights.columns)

    def to_json(self) -> dict[str, object]:
        """Weights that all classes share are written once."""
        if self.bias is None and (self.weights == self.weights.iloc[0]).all(axis=None):
            return {"members": self.weights.iloc[0].to_dict()}
        classes = {}
        for name, weights in self.weights.iterrows():
            classes[name] = {"members": weights.to_dict()}
            if self.bias is not None:
                classes[name]["bias"] = float(self.bias[name])
            if self.context is not None:
                classes[name]["context"] = self.context.loc[name].to_dict()
        return {"classes": classes}

    @classmethod
    def from_json(
        cls, values: Mapping[str, Mapping], classes: Sequence[str], members: Sequence[str]
    ) -> "Combination":
        """Weights of a class are made to sum to 1 unless it has a bias.

        Raises ValueError for numbers that are none, KeyError for a missing class or member.
        """
        by_class = values["classes"] if "classes" in values else dict.fromkeys(classes, values)
        rows = [[by_class[name]["members"][member] for member in members] for name in classes]
        weights = pd.DataFrame(rows, list(classes), list(members), dtype=np.float64)
        parts = [weights]
        if any("bias" in by_class[name] for name in classes):
            parts.append(pd.Series({name: by_class[name]["bias"] for name in classes}, dtype=np.float64))
        elif not ((weights >= 0).all(axis=None) and (weights.sum(axis=1) > 0).all()):
            raise ValueError("the weights of members must be numbers >= 0, not all of them 0")
        else:
            parts[0] = weights.div(weights.sum(axis=1), axis=0)
        if any("context" in by_class[name] for name in classes):
            rows = [[by_class[name]["context"][item] for item in CONTEXT] for name in classes]
            parts.append(pd.DataFrame(rows, list(classes), list(CONTEXT), dtype=np.float64))
        if not all(np.isfinite(part).all(axis=None) for part in parts):
            raise ValueError("the weights of members and of their context must be finite numbers")
        return cls(*parts)


@dataclass(frozen=True)
class Candidate:
    """A kind's nested score, and how far it is behind the best: a difference and the ends of its interval."""

    score: float
    behind: float
    low: float
    high: float


@dataclass(frozen=True)
class EnsembleWeights:
    """How members are combined, and what was known when that was chosen.

    `final` and `study_mean.final` were fitted on all out-of-fold rows and serve dev and test; `by_fold[k]`
    and `study_mean.by_fold[k]` were fitted without fold k and serve its out-of-fold rows. `kind` is a key of
    `nested`, `why` says why it was chosen, `asked` holds the flags, `fingerprint` identifies the members'
    predictions and the labels, `members_sha256` these predictions alone.
    """

    kind: str
    why: str
    members: tuple[str, ...]
    final: Combination
    by_fold: tuple[Combination, ...]
    study_mean: StudyMean
    nested: Mapping[str, Candidate]
    n_draws: int
    asked: Mapping[str, object]
    folds_sha256: str
    fingerprint: str
    members_sha256: str

    def of(self, without: int | None) -> Combination:
        """What was fitted without that fold; None: on all rows."""
        return self.final if without is None else self.by_fold[without]

    @property
    def used(self) -> tuple[str, ...]:
        """The members that dev and test predictions need."""
        return self.final.used

    def command(self, name: str, challenge: str) -> str:
        """The command that made it."""
        asked = self.asked
        flags = f" --kind {asked['kind']}" * bool(asked["kind"]) + " --context" * bool(asked["context"])
        flags += f" --study-mean {asked['study_mean']}" * (asked["study_mean"] != "auto")
        return f"cxrlt ensemble {name} --members {' '.join(self.members)}{flags} --challenge {challenge}"

    def write(self, run_dir: Path, challenge: str) -> None:
        values = vars(self) | {
            "final": self.final.to_json(),
            "by_fold": [part.to_json() for part in self.by_fold],
            "study_mean": self.study_mean.to_json(),
            "nested": {kind: vars(candidate) for kind, candidate in self.nested.items()},
        }
        write_json(run_dir / WEIGHTS_FILE, {"challenge": challenge} | values)


def is_ensemble(run_dir: Path) -> bool:
    return (run_dir / WEIGHTS_FILE).is_file()


def read_weights(run_dir: Path, challenge: Challenge) -> EnsembleWeights:
    """What an ensemble is. Raises UserError if its numbers are not usable."""
    name = name_of_run(run_dir, challenge.name)
    return read_parsed(
        run_dir / WEIGHTS_FILE,
        lambda values: _parsed(values, challenge),
        f"cxrlt ensemble {name} --members A B --challenge {challenge.name}",
    )


def _parsed(values: dict, challenge: Challenge) -> EnsembleWeights:
    """Raises ValueError, KeyError or TypeError for what `EnsembleWeights.write` would not have written."""
    if values["challenge"] != challenge.name:
        raise ValueError(f"it is of {values['challenge']}")
    members, asked = values["members"], values["asked"]
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise ValueError("its members are no list of names")
    final, *by_fold = (
        Combination.from_json(part, challenge.classes, members)
        for part in (values["final"], *values["by_fold"])
    )
    nested = {
        kind: Candidate(**{key: float(figures[key]) for key in Candidate.__dataclass_fields__})
        for kind, figures in values["nested"].items()
    }
    return EnsembleWeights(
        kind=str(values["kind"]),
        why=str(values["why"]),
        members=tuple(members),
        final=final,
        by_fold=tuple(by_fold),
        study_mean=StudyMean.from_json(values["study_mean"]),
        nested=nested,
        n_draws=int(values["n_draws"]),
        asked={key: asked[key] for key in ("kind", "context", "study_mean")},
        folds_sha256=str(values["folds_sha256"]),
        fingerprint=str(values["fingerprint"]),
        members_sha256=str(values["members_sha256"]),
    )
