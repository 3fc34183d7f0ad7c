"""The challenge `csv`: your own CSV files, described in challenge.yaml."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from pydantic import Field, field_validator, model_validator

from cxrlt.challenges import columns
from cxrlt.challenges.base import DEFAULT_METRIC, DEFAULT_RECIPES, RESERVED_COLUMNS, Challenge, Task
from cxrlt.challenges.csv_file import CsvFile, describe_rows, read_csv
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.spec import SPEC_FILE, Spec, read_spec
from cxrlt.challenges.views import parse_views
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.metrics import metric_names

MISSING_FOLDER = Path("/nonexistent")
"""A folder for checking glob patterns without listing files."""


class CsvSpec(Spec):
    """Keys of challenge.yaml. Files are relative to its folder; all other values are names of columns."""

    title: str = "My radiographs"
    task: Task = "multi_label"
    train: str
    dev: str | None = None
    test: str | None = None
    id: str
    patient: str | None = None
    study: str | None = None
    view: str | None = None
    path: str | None = Field(None, description="image path; default: the id")
    suffix: str = Field("", description="added to every path, for example .jpg if ids have no extension")
    images: str = Field(
        ".", description="folder that paths are relative to, inside the images folder; can be a glob pattern"
    )
    classes: tuple[str, ...] | None = Field(None, description="default: every other column of train")
    dev_template: str | None = None
    test_template: str | None = None
    template_id: str | None = Field(None, description="name of the id column in submissions; default: id")

    @field_validator("train", "dev", "test", "dev_template", "test_template")
    @classmethod
    def _check_file_name(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(columns.UNSAFE_PATH, name, re.DOTALL):
            raise ValueError("is outside the folder of this file; move or link it there")
        return name

    @field_validator("images")
    @classmethod
    def _check_images(cls, images: str) -> str:
        if re.fullmatch(columns.UNSAFE_PATH, images, re.DOTALL):
            raise ValueError("is outside the images folder; set that folder with --images")
        if not images.isprintable():
            raise ValueError("contains a control character")
        try:
            next(MISSING_FOLDER.glob(images), None)  # checks only the pattern
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"is not a folder or glob pattern: {error}") from error
        return images

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and (not classes or len(set(classes)) < len(classes)):
            raise ValueError("must contain at least one name, and each name once")
        return classes

    @model_validator(mode="after")
    def _check_metric_of_task(self) -> Self:
        if self.metric not in (None, *metric_names(self.task)):
            raise ValueError(f"metric {self.metric} needs one class per image: add task: single_label")
        return self


@dataclass(frozen=True, kw_only=True)
class CsvChallenge(Challenge):
    """A challenge from CSV files. Class counts are those of its train table.

    A patient in train must not be in dev or test.
    """

    spec: CsvSpec

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        """Return the table of `split` (index image_id); raises UserError as `Challenge.read`."""
        self.require_split(split)
        return read_table(self.spec, split, read_csv(inputs_dir / getattr(self.spec, split)), self.classes)

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """Return the ids of the template in challenge.yaml, or of the table without one, in file order."""
        self.require_split(split)
        template = {"dev": self.spec.dev_template, "test": self.spec.test_template}.get(split)
        if template is None:
            return self.read(split, inputs_dir).index.tolist()
        return columns.read_template_ids(self, inputs_dir / template, SPEC_FILE)

    def image_folders(self) -> tuple[str, ...]:
        """See `Challenge.image_folders`."""
        return (self.spec.images,)


@challenge("csv", from_inputs=True)
def csv_challenge(name: str, inputs_dir: Path) -> CsvChallenge:
    """Return the challenge of `inputs_dir`/challenge.yaml. Raises UserError for a wrong key or file."""
    path = inputs_dir / SPEC_FILE
    spec = read_spec(path, CsvSpec)
    splits = tuple(split for split in ("train", "dev", "test") if getattr(spec, split))
    named = [getattr(spec, key) for key in (*splits, "dev_template", "test_template") if getattr(spec, key)]
    missing = [name for name in named if not os.path.lexists(inputs_dir / name)]
    if missing:
        raise MissingFileError(f"{path} names files that do not exist: {listing(missing)}.")
    file = read_csv(inputs_dir / spec.train)
    classes = spec.classes or remaining_columns(spec, file)
    require_class_names(spec, file, classes)
    train = read_table(spec, "train", file, classes)
    return CsvChallenge(
        name=name,
        title=spec.title,
        train_counts={name: int(train[name].sum()) for name in classes},
        train_images=len(train),
        splits=splits,
        id_column=spec.id,
        template_id=spec.template_id,
        channels=spec.channels,
        task=spec.task,
        metric=spec.metric or DEFAULT_METRIC[spec.task],
        recipes=DEFAULT_RECIPES[spec.task],
        strict_patients=True,
        spec=spec,
    )


def require_class_names(spec: CsvSpec, file: CsvFile, classes: tuple[str, ...]) -> None:
    """Raise UserError for class names that are also another column, or contain control characters."""
    if reserved := [name for name in classes if name in RESERVED_COLUMNS]:
        raise UserError(f"{file.path} has a class with the reserved name {listing(reserved)}. Rename it.")
    others = (spec.id, spec.patient, spec.study, spec.view, spec.path, spec.template_id)
    if both := [name for name in classes if name in others]:
        raise UserError(f"{SPEC_FILE} uses {listing(both)} as a class and as another column. Choose one.")
    if strange := [name for name in classes if not name.isprintable()]:
        raise UserError(
            f"{file.path}: a line break or another control character in the class {listing(strange)}."
        )


def remaining_columns(spec: CsvSpec, file: CsvFile) -> tuple[str, ...]:
    """Return the columns that challenge.yaml does not name: the classes.

    Raises UserError if there are none, or if one has values other than 0, 1 and blank.
    """
    named = {file.column(name) for name in (spec.id, spec.patient, spec.study, spec.view, spec.path) if name}
    classes = tuple(name for name in file.columns if name not in named)
    if not classes:
        raise UserError(f"{file.path} has no class column, only {listing(sorted(named))}.")
    strange = [name for name in classes if not file.text(name).isin(list(columns.LABELS)).all()]
    if strange:
        values = file.text(strange[0])
        raise UserError(
            f"{file.path} has columns with values other than 0, 1 and blank: {listing(strange)}; for example "
            f"{strange[0]!r} in {describe_rows(values, ~values.isin(list(columns.LABELS)))}. "
            f"If they are not classes, list the classes in {SPEC_FILE} (classes: [...])."
        )
    return classes


def read_table(spec: CsvSpec, split: str, file: CsvFile, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the table of a split (index image_id). Only train must have patient, study and view."""

    def find(name: str | None) -> str | None:
        if name is None:
            return None
        return file.column(name) if split == "train" else file.optional_column(name)

    patient, study, view = find(spec.patient), find(spec.study), find(spec.view)
    image_id = columns.read_ids(file, file.column(spec.id))
    return columns.build_table(
        file,
        image_id=image_id,
        patient=None if patient is None else columns.read_ids(file, patient),
        study=None if study is None else columns.read_ids(file, study),
        view=None if view is None else parse_views(file.text(view)),
        path=columns.read_paths(file, file.column(spec.path or spec.id), spec.suffix),
        class_labels=columns.read_labels(file, classes, required=split == "train", task=spec.task),
    )
