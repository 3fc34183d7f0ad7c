"""run.json: the identity of one fold of a run and the digests of everything its weights depend on."""

from pathlib import Path
from typing import Optional

import pandas as pd
from pydantic import Field

from cxrlt.artifacts import Artifact, read_artifact
from cxrlt.challenges.base import Challenge, Task
from cxrlt.errors import UserError
from cxrlt.folds.rows import TrainRows
from cxrlt.provenance import Provenance, find_differences, provenance_of, select_parts
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.training.initial_weights import InitialWeights
from cxrlt.training.run_paths import RUN, fold_from_dir, train_fold_command

DATA_PARTS = ("rows", "labels", "pixels", "views")
"""The digests of a fold's data, which change if the user changes files in the inputs folder."""


class Origin(Artifact):
    """The trained fold of another run that provided the initial weights: `weights` and `rows` are digests."""

    run: str
    fold: str
    weights: str
    rows: str
    started_from: Optional["Origin"] = None


class RunRecord(Artifact):
    """The content of run.json. `classes` are in the order of the model's outputs.

    `kept` has the digests of changed data for which the user kept the weights (--keep-trained).
    """

    challenge: str
    name: str
    fold: str
    seed: int
    version: str
    task: Task
    classes: tuple[str, ...]
    provenance: Provenance
    kept: Provenance = Field(default_factory=dict)
    started_from: Origin | None = None
    initial_weights: InitialWeights = Field(default_factory=InitialWeights)


def read_run_record(directory: Path, challenge: str) -> RunRecord:
    """Read run.json of a fold's folder.

    Raises UserError, with the command that trains the fold, if it is missing, damaged or of another fold.
    """
    fold = fold_from_dir(directory)
    command = train_fold_command(directory.parent, fold, challenge)
    record = read_artifact(directory / RUN, RunRecord, command)
    if record.fold != fold:
        raise UserError(
            f"{directory / RUN} is of fold {record.fold}: the folder was renamed. Train fold {fold} with: "
            f"{command} --force"
        )
    return record


def training_provenance(
    recipe: Recipe,
    challenge: Challenge,
    rows: TrainRows,
    fold: int | str,
    pixels: pd.Series | None,
    origin: Origin | None = None,
) -> Provenance:
    """Return the digests of everything that the weights of `fold` depend on.

    `pixels` (index image_id) has the hash of each image, NaN if unknown.
    """
    parts = provenance_of(classes=class_identity(challenge), recipe=fields_affecting(recipe, "weights"))
    data = data_provenance(challenge, rows, fold, pixels, *data_dependencies(recipe))
    return parts | data | ({"start": origin.weights} if origin else {})


def class_identity(challenge: Challenge) -> list[str]:
    """Return the task and the sorted classes, whose digest is in the provenance: order does not matter."""
    return [challenge.task, *sorted(challenge.classes)]


def data_dependencies(recipe: Recipe) -> tuple[bool, bool]:
    """Return whether weights depend on validation labels (for the best epoch), and on studies and views."""
    return recipe.predict.weights == "best", recipe.uses_fusion


def data_provenance(
    challenge: Challenge,
    rows: TrainRows,
    fold: int | str,
    pixels: pd.Series | None,
    all_labels: bool,
    views: bool,
) -> Provenance:
    """Return the digests of the data of `fold`; `pixels` (index image_id) as in `training_provenance`."""
    trained_on = rows.table[rows.fold.astype(str) != str(fold)]
    labelled = rows.table if all_labels else trained_on
    hashes = None if pixels is None else pixels.reindex(trained_on.index)
    parts = provenance_of(
        labels=labelled[list(challenge.classes)],
        pixels=None if hashes is None or hashes.isna().any() else hashes,
        views=trained_on[["study", "view"]] if views else None,
    )
    return parts | {"rows": rows.folds.identity.rows(fold)}


def data_changes(record: RunRecord, now: Provenance, rows: TrainRows) -> dict[str, list[str]]:
    """Return how the training data of a fold differ from the data `now`, as `find_differences` does.

    If rows were added or removed, only "rows" is returned: labels and pixels of different rows cannot be
    compared.
    """
    if "rows" in rows.folds.parts_changed_by_extend(record.provenance, record.fold) or len(rows.removed):
        return {"rows": []}
    return find_differences(record.provenance, select_parts(DATA_PARTS, now))
