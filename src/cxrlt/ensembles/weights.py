"""weights.json: the weights of an ensemble. Its predictions and submissions are computed from this file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import PlainSerializer, model_validator

from cxrlt.artifacts import Artifact, read_artifact, run_name_from_dir
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.context import CONTEXT_FEATURES
from cxrlt.errors import UserError
from cxrlt.predictions.run_names import WEIGHTS_FILE
from cxrlt.predictions.study_mean import StudyMean, StudyMeanOption
from cxrlt.provenance import Provenance
from cxrlt.system.atomic_files import file_state

Kind = Literal["mean", "greedy", "per_class", "stack"]


@dataclass(frozen=True)
class Combination:
    """A weighted sum of the members' scores, class by class.

    `weights` is a frame of classes x members, `context` one of classes x CONTEXT_FEATURES. With a `bias` (per
    class) the sums are logits. Without a bias the weights of a class sum to 1, and the sums are on the scale
    of the members' scores.
    """

    weights: pd.DataFrame
    bias: pd.Series | None = None
    context: pd.DataFrame | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(map(str, self.weights.columns))

    @property
    def shares(self) -> dict[str, float]:
        """The weight of every member, averaged over the classes."""
        return dict(zip(self.members, self.weights.mean().tolist(), strict=True))

    @property
    def active_members(self) -> tuple[str, ...]:
        """The members with a weight other than 0 in some class; all members if there is a context."""
        if self.context is not None:
            return self.members
        return tuple(name for name in self.members if (self.weights[name] != 0).any())

    def to_json(self) -> dict[str, object]:
        """Return a JSON-serialisable dict. If all classes have the same weights, they are written once."""
        if self.bias is None and (self.weights == self.weights.iloc[0]).all(axis=None):
            return {"members": self.weights.iloc[0].to_dict()}
        classes: dict[str, dict[str, object]] = {}
        for name in map(str, self.weights.index):
            classes[name] = {"members": self.weights.loc[name].to_dict()}
            if self.bias is not None:
                classes[name]["bias"] = float(self.bias[name])
            if self.context is not None:
                classes[name]["context"] = self.context.loc[name].to_dict()
        return {"classes": classes}

    @classmethod
    def from_json(
        cls, values: Mapping[str, Mapping], classes: Sequence[str], members: Sequence[str]
    ) -> "Combination":
        """Read what `to_json` returned, and scale the weights of a class without a bias to a sum of 1.

        Raises ValueError for negative, infinite or NaN weights, KeyError for a missing class or member.
        """
        by_class = values["classes"] if "classes" in values else dict.fromkeys(classes, values)
        rows = [[by_class[name]["members"][member] for member in members] for name in classes]
        weights = pd.DataFrame(rows, list(classes), list(members), dtype=np.float64)
        bias = context = None
        if any("bias" in by_class[name] for name in classes):
            bias = pd.Series({name: by_class[name]["bias"] for name in classes}, dtype=np.float64)
        elif not ((weights >= 0).all(axis=None) and (weights.sum(axis=1) > 0).all()):
            raise ValueError("the weights of members must be numbers >= 0, not all of them 0")
        else:
            weights = weights.div(weights.sum(axis=1), axis=0)
        if any("context" in by_class[name] for name in classes):
            rows = [[by_class[name]["context"][item] for item in CONTEXT_FEATURES] for name in classes]
            context = pd.DataFrame(rows, list(classes), list(CONTEXT_FEATURES), dtype=np.float64)
        parts = [part.to_numpy() for part in (weights, bias, context) if part is not None]
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError("the weights of members and of their context must be finite numbers")
        return cls(weights, bias, context)


CombinationField = Annotated[Combination, PlainSerializer(Combination.to_json)]


class EnsembleRequest(Artifact):
    """The options of `cxrlt ensemble`; `kind` None: the kind is chosen by out-of-fold scores."""

    kind: Kind | None = None
    context: bool = False
    study_mean: StudyMeanOption = "auto"


@dataclass(frozen=True)
class NestedScore:
    """The nested score of a kind, and `behind`: best minus this score, with its interval [`low`, `high`]."""

    score: float
    behind: float
    low: float
    high: float


class EnsembleWeights(Artifact):
    """weights.json: how the members are combined, with the nested scores behind this choice.

    `final` and `study_mean.final` were fitted on all out-of-fold rows and are for dev and test. `by_fold[k]`
    and `study_mean.by_fold[k]` were fitted without fold k and are for its out-of-fold rows. `kind` is a key
    of `nested`, `why` is the reason for the choice, `request` has the flags of the command.
    """

    challenge: str
    kind: str
    why: str
    members: tuple[str, ...]
    classes: tuple[str, ...]
    final: CombinationField
    by_fold: tuple[CombinationField, ...]
    study_mean: StudyMean
    nested: dict[str, NestedScore]
    n_draws: int
    request: EnsembleRequest
    provenance: Provenance

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
            raise ValueError(f"the weights of its members are incomplete ({error})") from error
        return values | {"final": final, "by_fold": tuple(by_fold)}

    def for_fold(self, fold: int | None) -> Combination:
        """Return the combination that was fitted without this fold; fold None: on all rows."""
        return self.final if fold is None else self.by_fold[fold]

    @property
    def active_members(self) -> tuple[str, ...]:
        """The members that dev and test predictions need."""
        return self.final.active_members

    def command(self, name: str) -> str:
        """Return the command that made the ensemble."""
        request = self.request
        flags = f" --kind {request.kind}" * bool(request.kind) + " --context" * request.context
        flags += f" --study-mean {request.study_mean}" * (request.study_mean != "auto")
        return f"cxrlt ensemble {name} --members {' '.join(self.members)}{flags} --challenge {self.challenge}"


@lru_cache(maxsize=64)
def _read_weights_file(path: Path, again: str, state: tuple[int, ...] | None) -> EnsembleWeights:
    return read_artifact(path, EnsembleWeights, again)


def read_weights(run_dir: Path, challenge: Challenge) -> EnsembleWeights:
    """Return the weights of an ensemble. weights.json is read once, until it changes.

    Raises UserError if the file is missing or damaged, or belongs to another challenge or to other classes.
    """
    name = run_name_from_dir(run_dir, challenge.name)
    again = f"cxrlt ensemble {name} --members A B --challenge {challenge.name}"
    weights = _read_weights_file(run_dir / WEIGHTS_FILE, again, file_state(run_dir / WEIGHTS_FILE))
    if weights.challenge != challenge.name or set(weights.classes) != set(challenge.classes):
        raise UserError(
            f"{run_dir / WEIGHTS_FILE} was made for {weights.challenge}, or for other classes than "
            f"{challenge.name} has now. Renew it with: {weights.command(name)} --force"
        )
    return weights
