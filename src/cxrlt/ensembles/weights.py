"""weights.json: what an ensemble is. Predictions and submissions of an ensemble are computed from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import PlainSerializer, model_validator

from cxrlt.artifacts import Artifact, name_of_run, read_model
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.context import CONTEXT
from cxrlt.errors import UserError
from cxrlt.predictions.run_names import WEIGHTS_FILE
from cxrlt.predictions.study_mean import StudyMean, StudyMeanOption
from cxrlt.provenance import MadeOf
from cxrlt.system.atomic_files import file_state

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
        """The members whose weight is not 0."""
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


Weighing = Annotated[Combination, PlainSerializer(Combination.to_json)]


class EnsembleRequest(Artifact):
    """What the user wants of an ensemble; `kind` None: what the evidence says."""

    kind: Kind | None = None
    context: bool = False
    study_mean: StudyMeanOption = "auto"


@dataclass(frozen=True)
class Candidate:
    """A kind's nested score, and how far it is behind the best: a difference and the ends of its interval."""

    score: float
    behind: float
    low: float
    high: float


class EnsembleWeights(Artifact):
    """weights.json: how members are combined, and what was known when that was chosen.

    `final` and `study_mean.final` were fitted on all out-of-fold rows and serve dev and test; `by_fold[k]`
    and `study_mean.by_fold[k]` were fitted without fold k and serve its out-of-fold rows. `kind` is a key of
    `nested`, `why` says why it was chosen, `asked` holds the flags.
    """

    challenge: str
    kind: str
    why: str
    members: tuple[str, ...]
    classes: tuple[str, ...]
    final: Weighing
    by_fold: tuple[Weighing, ...]
    study_mean: StudyMean
    nested: dict[str, Candidate]
    n_draws: int
    asked: EnsembleRequest
    made_of: MadeOf

    @model_validator(mode="before")
    @classmethod
    def _read_combinations(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("final"), dict):
            return values
        try:
            final, *by_fold = (
                Combination.from_json(part, values["classes"], values["members"])
                for part in (values["final"], *values["by_fold"])
            )
        except KeyError as error:
            raise ValueError(f"it lacks {error}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the weights of its members are not whole ({error})") from error
        return values | {"final": final, "by_fold": tuple(by_fold)}

    def for_fold(self, fold: int | None) -> Combination:
        """What was fitted without that fold; None: on all rows."""
        return self.final if fold is None else self.by_fold[fold]

    @property
    def used(self) -> tuple[str, ...]:
        """The members that dev and test predictions need."""
        return self.final.used

    def command(self, name: str) -> str:
        """The command that made it."""
        asked = self.asked
        flags = f" --kind {asked.kind}" * bool(asked.kind) + " --context" * asked.context
        flags += f" --study-mean {asked.study_mean}" * (asked.study_mean != "auto")
        return f"cxrlt ensemble {name} --members {' '.join(self.members)}{flags} --challenge {self.challenge}"


@lru_cache(maxsize=64)
def _weights_in(path: Path, again: str, state: tuple[int, ...] | None) -> EnsembleWeights:
    return read_model(path, EnsembleWeights, again)


def read_weights(run_dir: Path, challenge: Challenge) -> EnsembleWeights:
    """What an ensemble is, read once as long as its file stays the same.

    Raises UserError if its numbers are not usable, or of other classes.
    """
    name = name_of_run(run_dir, challenge.name)
    again = f"cxrlt ensemble {name} --members A B --challenge {challenge.name}"
    weights = _weights_in(run_dir / WEIGHTS_FILE, again, file_state(run_dir / WEIGHTS_FILE))
    if weights.challenge != challenge.name or set(weights.classes) != set(challenge.classes):
        raise UserError(
            f"{run_dir / WEIGHTS_FILE} is of {weights.challenge}, or of other classes than {challenge.name} "
            f"has now. Make it again with: {weights.command(name)} --force"
        )
    return weights
