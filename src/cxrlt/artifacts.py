"""Paths of all files, and the JSON files that stages write and read."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.errors import MissingFileError, UserError, listing, quoted
from cxrlt.system.atomic_files import write_json
from cxrlt.system.user_files import require_file

MAX_NAME_BYTES = 200
"""Limit for a folder name: file systems allow 255 bytes, and some file names add a suffix."""
MAX_JSON_BYTES = 1 << 28
"""Limit for a JSON artifact. Weights of many members for thousands of classes take some megabytes."""


class Artifact(BaseModel):
    """A JSON file that one stage writes and others read. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Workspace:
    """The folders below one root. `inputs`, `images` and `cache` are the values of the flags, if set."""

    root: Path
    inputs: Path | None = None
    images: Path | None = None
    cache: Path | None = None

    def inputs_dir(self, challenge: str) -> Path:
        """Return the folder with the tables of the challenge."""
        return self.inputs or self.root / "inputs" / challenge

    def images_dir(self, challenge: str) -> Path:
        """Return the folder that image paths are relative to."""
        return self.images or self.inputs_dir(challenge)

    def cache_dir(self) -> Path:
        """Return the folder for decoded images."""
        return self.cache or self.root / "inputs" / "cache"

    def folds_dir(self, challenge: str) -> Path:
        """Return the folder with the split and all runs of the challenge."""
        return self.root / "folds" / challenge

    def folds_path(self, challenge: str) -> Path:
        """Return the path of the split."""
        return self.folds_dir(challenge) / "folds.csv"

    def run_dir(self, challenge: str, name: str) -> Path:
        """Return the folder of a run (with fold0/, fold1/, …) or an ensemble (with weights.json).

        A name may contain slashes: compare-losses/asl. Raises UserError for a name that leads outside folds/.
        """
        return _below(_below(self.root / "folds", challenge), name)

    def submission_dir(self, challenge: str, name: str) -> Path:
        """Return the submission folder of a run or ensemble; name and errors as for `run_dir`."""
        return _below(_below(self.root / "submissions", challenge), name)


def _below(folder: Path, name: str) -> Path:
    """Return `folder / name`. Raises UserError if it is not below `folder` or not a valid file name."""
    parts = Path(name).parts
    is_outside = not parts or ".." in parts or Path(name).anchor or "\\" in name
    if is_outside or not name.isprintable() or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        raise UserError(f"A run cannot be called {quoted(name)}: its folder would not be inside {folder}.")
    return folder / name


def expand_home(path: Path) -> Path:
    """Return `path` with a leading ~ or ~user expanded. Raises UserError for an unknown user.

    Needed because shells do not expand the ~ in --flag=~/x, or in some environment variables.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        home = path.parts[0]
        raise UserError(
            f"{path}: there is no home directory {home}. Correct the name, or write the whole path from / if "
            f"{home} is the name of a folder."
        ) from error


def run_name_from_dir(run_dir: Path, challenge: str) -> str:
    """Return the name of the run in `run_dir`, including slashes: the inverse of `Workspace.run_dir`."""
    return run_dir.as_posix().rpartition(f"/folds/{challenge}/")[2]


def read_json(path: Path, made_by: str, *, renewed_by: str | None = None) -> dict[str, Any]:
    """Return the JSON object in `path`, which the command `made_by` writes.

    Raises MissingFileError with that command if there is no file, and UserError with the command `renewed_by`
    (default: `made_by` with --force) if it is damaged.
    """
    renew = renew_message(renewed_by or with_force(made_by))
    try:
        require_file(path, f"Create it with: {made_by}", MAX_JSON_BYTES)
    except MissingFileError:
        raise
    except UserError as error:
        raise UserError(f"{error} {renew}") from error
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deep
        raise UserError(f"{path} is not valid JSON ({error}). {renew}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not contain a JSON object. {renew}")
    return value


def renew_message(command: str) -> str:
    """Return the end of an error about a damaged or outdated artifact."""
    return f"Renew it with: {command}"


def with_force(command: str) -> str:
    """Return `command` with --force, once."""
    return f"{command.removesuffix(' --force')} --force"


def read_artifact(path: Path, kind: type[Model], made_by: str, *, renewed_by: str | None = None) -> Model:
    """Return the artifact in `path` as a `kind`; arguments and errors as for `read_json`.

    Also raises UserError if the values do not match the fields of `kind`.
    """
    try:
        return kind.model_validate(read_json(path, made_by, renewed_by=renewed_by))
    except (ValidationError, RecursionError) as error:
        messages = [str(error)]
        if isinstance(error, ValidationError):
            messages = [": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors()]
        renew = renew_message(renewed_by or with_force(made_by))
        raise UserError(f"{path} cannot be used ({listing(messages, 3)}). {renew}") from error


def write_artifact(path: Path, artifact: BaseModel) -> None:
    """Write an artifact as JSON, which `read_artifact` reads."""
    write_json(path, artifact.model_dump(mode="json"))
