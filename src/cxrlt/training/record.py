"""run.json: what one fold of a run is and what its weights were made of."""

from pathlib import Path
from typing import Optional

import pandas as pd
from pydantic import Field

from cxrlt.artifacts import Artifact, read_model
from cxrlt.challenges.base import Challenge, Task
from cxrlt.errors import UserError
from cxrlt.folds.rows import TrainRows
from cxrlt.provenance import MadeOf, differing, made_of, only
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.training.run_paths import RUN, fold_of, train_fold_command

DATA = ("rows", "labels", "pixels", "views")
"""The parts of what weights are made of that lie in the inputs folder and may be changed there."""


class Origin(Artifact):
    """A trained fold of another run that a training started from: `weights` and `rows` are digests."""

    run: str
    fold: str
    weights: str
    rows: str
    started_from: Optional["Origin"] = None


class RunRecord(Artifact):
    """run.json. `classes` are in the order of the weights' outputs.

    `kept` is what there was of the data when the user chose to keep weights of other data (--keep-trained).
    """

    challenge: str
    name: str
    fold: str
    seed: int
    version: str
    task: Task
    classes: tuple[str, ...]
    made_of: MadeOf
    kept: MadeOf = Field(default_factory=dict)
    started_from: Origin | None = None


def read_run(directory: Path, challenge: str) -> RunRecord:
    """run.json of a fold's folder.

    Raises UserError, with the training, if it is missing, damaged or misplaced.
    """
    fold = fold_of(directory)
    again = train_fold_command(directory.parent, fold, challenge)
    record = read_model(directory / RUN, RunRecord, again)
    if record.fold != fold:
        raise UserError(
            f"{directory / RUN} is of fold {record.fold}: the folder was renamed. Make it again with: "
            f"{again} --force"
        )
    return record


def made_of_training(
    recipe: Recipe,
    challenge: Challenge,
    rows: TrainRows,
    fold: int | str,
    pixels: pd.Series | None,
    start: Origin | None = None,
) -> MadeOf:
    """What the weights of `fold` are made of.

    `pixels` has the hash of each image, None or NaN where it is not known.
    """
    parts = made_of(classes=classes_of(challenge), recipe=fields_affecting(recipe, "weights"))
    data = made_of_data(challenge, rows, fold, pixels, *data_used(recipe))
    return parts | data | ({"start": start.weights} if start else {})


def classes_of(challenge: Challenge) -> list[str]:
    """What an artifact keeps the digest of as its classes: their order does not matter."""
    return [challenge.task, *sorted(challenge.classes)]


def data_used(recipe: Recipe) -> tuple[bool, bool]:
    """Whether the labels of left-out rows count (they choose the best epoch), and studies and views."""
    return recipe.predict.weights == "best", recipe.uses_fusion


def made_of_data(
    challenge: Challenge,
    rows: TrainRows,
    fold: int | str,
    pixels: pd.Series | None,
    all_labels: bool,
    views: bool,
) -> MadeOf:
    """The part of it that lies in the inputs folder."""
    trained_on = rows.table[rows.fold.astype(str) != str(fold)]
    labelled = rows.table if all_labels else trained_on
    hashes = None if pixels is None else pixels.reindex(trained_on.index)
    parts = made_of(
        labels=labelled[list(challenge.classes)],
        pixels=None if hashes is None or hashes.isna().any() else hashes,
        views=trained_on[["study", "view"]] if views else None,
    )
    return parts | {"rows": rows.folds.identity.rows(fold)}


def changes_in_data(record: RunRecord, now: MadeOf, rows: TrainRows) -> dict[str, list[str]]:
    """How the data that a fold was trained on differ from what there is `now`, in the words of `differing`.

    Where rows have come or gone, only that is said: labels and pixels of other rows are no others of the
    same.
    """
    if "rows" in rows.folds.extended_since(record.made_of, record.fold) or len(rows.gone):
        return {"rows": []}
    return differing(record.made_of, only(DATA, now))
