"""Read challenge.yaml, with one sentence for every error in it."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cxrlt.errors import UserError, listing, quoted, shortened
from cxrlt.metrics import metric_names
from cxrlt.spelling import closest_match
from cxrlt.system.user_files import read_yaml

SPEC_FILE = "challenge.yaml"
EXAMPLE = "docs/challenges.md has an example."
MAX_LISTED_ERRORS = 10
"""Number of errors in one message."""


class Spec(BaseModel):
    """Keys that every challenge.yaml accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "Images of my own"
    channels: Literal[1, 3] = 1
    metric: str | None = None
    """Default: mAP, or macro-F1 for a single-label task."""

    @field_validator("channels", mode="before")
    @classmethod
    def _reject_bool(cls, value: Any) -> Any:
        """In Python True == 1."""
        return str(value) if isinstance(value, bool) else value

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str | None) -> str | None:
        known = metric_names("single_label")  # includes those of multi_label
        if metric is not None and metric not in known:
            raise ValueError(f"must be one of {listing(known, len(known))}")
        return metric


SpecKind = TypeVar("SpecKind", bound=Spec)


def read_spec(path: Path, kind: type[SpecKind]) -> SpecKind:
    """Return the content of challenge.yaml. Raises MissingFileError, or UserError that lists all errors."""
    content = read_yaml(path, EXAMPLE, f"lines like 'title: My images'. {EXAMPLE}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        messages = " ".join(_message(each, kind) for each in error.errors()[:MAX_LISTED_ERRORS])
        raise UserError(f"{path}: {messages}") from None


def _message(error: Any, kind: type[Spec]) -> str:
    key = shortened(".".join(map(str, error["loc"])))
    if error["type"] == "extra_forbidden":
        match = closest_match(key, kind.model_fields)
        return f"Unknown key {key!r}" + (
            f"; did you mean {match!r}?" if match else f"; known keys: {listing(kind.model_fields, 20)}."
        )
    if error["type"] == "missing":
        return f"The key {key!r} is missing."
    if error["type"] == "string_type":
        return f"{key}: {quoted(error['input'])} is not text in YAML; put it in quotes."
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {quoted(error['input'])})." if key else f"{message}."
