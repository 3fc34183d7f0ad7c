"""Where files lie, and the JSON that stages write for each other."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlt.errors import MissingFileError, UserError, listing, quoted
from cxrlt.system.atomic_files import write_json
from cxrlt.system.user_files import require_file

LONGEST_NAME = 200
"""Bytes of a folder's name: file systems take 255, and some names get longer."""
LARGEST_JSON = 1 << 28
"""Bytes of an artifact: weights of many members for thousands of classes have a few million."""


class Artifact(BaseModel):
    """A JSON file that one stage writes and others read, each key as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Workspace:
    """The folders of one root directory. `inputs`, `images` and `cache` stand for the flags of that name."""

    root: Path
    inputs: Path | None = None
    images: Path | None = None
    cache: Path | None = None

    def inputs_dir(self, challenge: str) -> Path:
        """Where the challenge's tables lie."""
        return self.inputs or self.root / "inputs" / challenge

    def images_dir(self, challenge: str) -> Path:
        """The folder that image paths are relative to."""
        return self.images or self.inputs_dir(challenge)

    def cache_dir(self) -> Path:
        return self.cache or self.root / "inputs" / "cache"

    def folds_dir(self, challenge: str) -> Path:
        return self.root / "folds" / challenge

    def folds_path(self, challenge: str) -> Path:
        return self.folds_dir(challenge) / "folds.csv"

    def run_dir(self, challenge: str, name: str) -> Path:
        """A trained model (fold0/, fold1/, … below it) or an ensemble (weights.json in it).

        A name with slashes is a path: compare-losses/asl. Raises UserError for one that leads elsewhere.
        """
        return _below(_below(self.root / "folds", challenge), name)

    def submission_dir(self, challenge: str, name: str) -> Path:
        """Of a run or an ensemble. Raises UserError for a name that leads elsewhere."""
        return _below(_below(self.root / "submissions", challenge), name)


def _below(folder: Path, name: str) -> Path:
    """`folder / name`. Raises UserError if that is not below it, or no name to a file system."""
    parts = Path(name).parts
    leaves = not parts or ".." in parts or Path(name).anchor or "\\" in name
    if leaves or not name.isprintable() or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise UserError(f"A run cannot be called {quoted(name)}: its folder would not be inside {folder}.")
    return folder / name


def expand_home(path: Path) -> Path:
    """`path` with a leading ~ or ~user as a shell expands it. Raises UserError if there is no such home.

    A shell leaves a ~ behind --flag= alone, and so does what sets an environment variable.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        home = path.parts[0]
        raise UserError(
            f"{path}: {home} stands for a home directory, and there is none of that name. Correct the name; "
            f"for a folder that is really called {home}, write the whole path from /."
        ) from error


def name_of_run(run_dir: Path, challenge: str) -> str:
    """The name that `Workspace.run_dir` made the folder from, slashes included."""
    return run_dir.as_posix().rpartition(f"/folds/{challenge}/")[2]


def read_json(path: Path, made_by: str, *, replaced_by: str | None = None) -> dict:
    """The JSON object in `path`, which the command `made_by` writes.

    Raises UserError, naming that command, if there is none; for a damaged one `replaced_by` (default: the
    same with --force).
    """
    again = make_again(replaced_by or forced(made_by))
    try:
        require_file(path, f"Make it with: {made_by}", LARGEST_JSON)
    except MissingFileError:
        raise
    except UserError as error:
        raise UserError(f"{error} {again}") from error
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
        raise UserError(f"{path} is not valid JSON ({error}). {again}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object. {again}")
    return value


def make_again(command: str) -> str:
    """The end of an error about an artifact that is damaged."""
    return f"Make it again with: {command}"


def forced(command: str) -> str:
    """`command` with --force, once."""
    return f"{command.removesuffix(' --force')} --force"


def read_model(path: Path, kind: type[Model], made_by: str, *, replaced_by: str | None = None) -> Model:
    """The JSON artifact in `path` as `kind`; arguments and errors as of `read_json`.

    Raises UserError, too, if the file is not what was written.
    """
    try:
        return kind.model_validate(read_json(path, made_by, replaced_by=replaced_by))
    except (ValidationError, RecursionError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        wrong = listing((": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in faults), 3)
        again = make_again(replaced_by or forced(made_by))
        raise UserError(f"{path} cannot be used ({wrong}). {again}") from error


def write_model(path: Path, artifact: BaseModel) -> None:
    """Write an artifact as the JSON that `read_model` reads."""
    write_json(path, artifact.model_dump(mode="json"))
