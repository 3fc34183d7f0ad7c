"""What a user writes into challenge.yaml, read with a sentence for every fault."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cxrlt.errors import UserError, listing, quoted, shortened
from cxrlt.metrics import metric_names
from cxrlt.spelling import nearest
from cxrlt.system.user_files import read_yaml

SPEC_FILE = "challenge.yaml"
EXAMPLE = "inputs/README.md has an example to start from."


MOST_FAULTS = 10


class Spec(BaseModel):
    """The keys that any challenge.yaml may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "Images of my own"
    channels: Literal[1, 3] = 1
    metric: str | None = None
    """Default: mAP, for a single-label task macro-F1."""

    @field_validator("channels", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any) -> Any:
        """To Python true is 1."""
        return str(value) if isinstance(value, bool) else value

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str | None) -> str | None:
        known = metric_names("single_label")  # which has those of multi_label, too
        if metric is not None and metric not in known:
            raise ValueError(f"should be one of {listing(known, len(known))}")
        return metric


SpecKind = TypeVar("SpecKind", bound=Spec)


def read_spec(path: Path, kind: type[SpecKind]) -> SpecKind:
    """The file's content. Raises MissingFileError, or UserError with a sentence per fault."""
    content = read_yaml(path, EXAMPLE, f"lines like 'title: My images'. {EXAMPLE}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = " ".join(_sentence(fault, kind) for fault in error.errors()[:MOST_FAULTS])
        raise UserError(f"{path}: {faults}") from None


def _sentence(fault: Any, kind: type[Spec]) -> str:
    key = shortened(".".join(map(str, fault["loc"])))
    if fault["type"] == "extra_forbidden":
        near = nearest(key, kind.model_fields)
        return f"Unknown key {key!r}" + (
            f"; perhaps {near!r} is meant." if near else f"; known are {listing(kind.model_fields, 20)}."
        )
    if fault["type"] == "missing":
        return f"The key {key!r} is missing."
    if fault["type"] == "string_type":
        return f"{key}: {quoted(fault['input'])} is not text to YAML; put it in quotes."
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (found {quoted(fault['input'])})." if key else f"{message}."
