"""What a user writes into challenge.yaml, read with a sentence for every fault."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.challenges.base import Metric
from cxrlt.challenges.spelling import nearest
from cxrlt.errors import UserError, listing

SPEC_FILE = "challenge.yaml"


class Spec(BaseModel):
    """The keys that any challenge.yaml may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "Images of my own"
    channels: Literal[1, 3] = 1
    metric: Metric | None = None
    """Default: mAP, for a single-label task macro-F1."""


SpecKind = TypeVar("SpecKind", bound=Spec)


def read_spec(path: Path, kind: type[SpecKind]) -> SpecKind:
    """The file's content. Raises UserError with a sentence per fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold lines like 'title: My images'. inputs/README.md has an example.")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = " ".join(_sentence(fault, kind) for fault in error.errors())
        raise UserError(f"{path}: {faults}") from None


def _sentence(fault: Any, kind: type[Spec]) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = nearest(key, kind.model_fields)
        return f"Unknown key {key!r}" + (
            f"; perhaps {near!r} is meant." if near else f"; known are {listing(kind.model_fields, 20)}."
        )
    if fault["type"] == "missing":
        return f"The key {key!r} is missing."
    if fault["type"] == "string_type":
        return f"{key}: {fault['input']!r} is not text to YAML; put it in quotes."
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (found {fault['input']!r})." if key else f"{message}."
