"""What predictions were made of: said in their files, and compared with what there is when they are read."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.folds.read import Folds
from cxrlt.predictions.trained import CONFIG, fold_of, recipe_of
from cxrlt.recipe import Recipe, differing_fields
from cxrlt.training.places import WEIGHTS, train_command, weights_sha256

PARTS = {
    "folds_sha256": "another folds.csv",
    "classes_sha256": "other classes",
    "recipe_sha256": "another recipe",
    "weights_sha256": "other weights",
}
"""What an identity consists of, and what is said of predictions that differ in it."""
TRAINED_WITH = ("folds_sha256", "classes_sha256")
"""Where one of these differs, predicting again is not enough."""
NOT_IN_LOGITS = (
    "data.n_workers",
    "checkpoint_minutes",
    "optim.max_batch_per_device",
    "predict.study_mean",
    "predict.gate",
    "predict.smooth",
)
"""Fields of a recipe that change nothing in a predictions file; the last three are of what comes after it."""


class OutdatedError(UserError):
    """What is read was made of something else than there is now."""


def identity_of(directory: Path, challenge: Challenge, folds: Folds) -> dict[str, str]:
    """What predictions of the fold in `directory` would be made of now.

    Without weights_sha256 where the weights were deleted. Raises UserError for a damaged recipe.
    """
    classes = json.dumps([challenge.task, *challenge.classes])
    identity = {
        "folds_sha256": folds.sha256,
        "classes_sha256": _sha256(classes),
        "recipe_sha256": _recipe_sha256(directory, challenge.name),
    }
    if (directory / WEIGHTS).is_file():
        identity["weights_sha256"] = weights_sha256(directory)
    return identity


def differing(made_of: Mapping[str, object], now: Mapping[str, str]) -> list[str]:
    """The parts of an identity in which something differs from what there is now."""
    return [part for part in PARTS if part in now and made_of.get(part) != now[part]]


def in_words(parts: list[str]) -> str:
    """'another recipe and other weights'."""
    *most, last = (PARTS[part] for part in parts)
    return f"{', '.join(most)} and {last}" if most else last


def require_current(
    path: Path, made_of: Mapping[str, object], challenge: Challenge, folds: Folds, made_by: str
) -> None:
    """Raises OutdatedError if the file in a fold's folder was made of something else than there is now.

    It says what differs and what renews the file: the command `made_by`, or training where that is needed.
    """
    parts = differing(made_of, identity_of(path.parent, challenge, folds))
    if parts:
        anew = any(part in TRAINED_WITH for part in parts)
        train = train_command(path.parent.parent, fold_of(path.parent), challenge.name)
        raise OutdatedError(
            f"{path} is outdated: it was made with {in_words(parts)}. "
            f"Renew it with: {train if anew else made_by} --force"
        )


def _recipe_sha256(directory: Path, challenge: str) -> str:
    path = directory / CONFIG
    if not path.is_file():
        return _hash_of(recipe_of(directory, challenge))  # which says that it is missing
    found = path.stat()
    return _hash_of_file(directory, challenge, found.st_size, found.st_mtime_ns)


@cache
def _hash_of_file(directory: Path, challenge: str, size: int, mtime_ns: int) -> str:
    return _hash_of(recipe_of(directory, challenge))


def _hash_of(recipe: Recipe) -> str:
    """Fields with their default are left out: one that is added to the project later outdates nothing."""
    fields = [field for field in differing_fields(Recipe(), recipe) if not field.startswith(NOT_IN_LOGITS)]
    return _sha256("\n".join(fields))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
