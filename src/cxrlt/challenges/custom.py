"""The challenge `csv`: any CSV files whose columns the user names in challenge.yaml."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from pydantic import Field, field_validator, model_validator

from cxrlt.challenges import columns
from cxrlt.challenges.base import RESERVED, USUAL_METRIC, USUAL_RECIPES, Challenge, Task
from cxrlt.challenges.csv_file import CsvFile, read_csv, rows
from cxrlt.challenges.registry import challenge
from cxrlt.challenges.spec import SPEC_FILE, Spec, read_spec
from cxrlt.challenges.views import views
from cxrlt.errors import MissingFileError, UserError, listing
from cxrlt.metrics import metric_names

NOWHERE = Path("/nonexistent")


class CsvSpec(Spec):
    """The keys of challenge.yaml. Files are relative to its folder, everything else names a column."""

    title: str = "Radiographs of my own"
    task: Task = "multi_label"
    train: str
    dev: str | None = None
    test: str | None = None
    id: str
    patient: str | None = None
    study: str | None = None
    view: str | None = None
    path: str | None = Field(None, description="image path; default: the id")
    suffix: str = Field("", description="added to every path, as .jpg where ids have no extension")
    images: str = Field(
        ".", description="folder of the paths, below the images folder; may be a glob pattern"
    )
    classes: tuple[str, ...] | None = Field(None, description="default: every other column of train")
    dev_template: str | None = None
    test_template: str | None = None
    template_id: str | None = Field(None, description="the ids' column in submissions; default: the id")

    @field_validator("train", "dev", "test", "dev_template", "test_template")
    @classmethod
    def _beside_the_description(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(columns.UNSAFE_PATH, name, re.DOTALL):
            raise ValueError("lies outside the folder of this file; move or link it there")
        return name

    @field_validator("images")
    @classmethod
    def _below_the_images_folder(cls, images: str) -> str:
        if re.fullmatch(columns.UNSAFE_PATH, images, re.DOTALL):
            raise ValueError("lies outside the images folder; name that folder with --images")
        if not images.isprintable():
            raise ValueError("holds a control character")
        try:
            next(NOWHERE.glob(images), None)  # checks the pattern alone
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"is no folder or glob pattern: {error}") from error
        return images

    @field_validator("classes")
    @classmethod
    def _some_classes_each_once(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and (not classes or len(set(classes)) < len(classes)):
            raise ValueError("should hold at least one name, and each once")
        return classes

    @model_validator(mode="after")
    def _metric_suits_the_task(self) -> Self:
        if self.metric not in (None, *metric_names(self.task)):
            raise ValueError(f"metric {self.metric} needs one class per image, so add task: single_label")
        return self


@dataclass(frozen=True, kw_only=True)
class CsvChallenge(Challenge):
    """Its official counts are those of its own train table, which must share no patient with dev or test."""

    spec: CsvSpec

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        self.require(split)
        return read_table(self.spec, split, read_csv(inputs_dir / getattr(self.spec, split)), self.classes)

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        """The ids of the template if challenge.yaml names one, else those of the table, in file order."""
        self.require(split)
        template = {"dev": self.spec.dev_template, "test": self.spec.test_template}.get(split)
        if template is None:
            return self.read(split, inputs_dir).index.tolist()
        return columns.template_ids(self, inputs_dir / template, SPEC_FILE)

    def image_folders(self) -> tuple[str, ...]:
        return (self.spec.images,)


@challenge("csv", from_inputs=True)
def csv_challenge(name: str, inputs_dir: Path) -> CsvChallenge:
    """The challenge of `inputs_dir`/challenge.yaml. Raises UserError if a file it names is missing."""
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
        metric=spec.metric or USUAL_METRIC[spec.task],
        recipes=USUAL_RECIPES[spec.task],
        strict_patients=True,
        spec=spec,
    )


def require_class_names(spec: CsvSpec, file: CsvFile, classes: tuple[str, ...]) -> None:
    """Raises UserError for classes that could be taken for another column, or break a line."""
    if reserved := [name for name in classes if name in RESERVED]:
        raise UserError(f"{file.path} has a class named {listing(reserved)}, a column of ours. Rename it.")
    others = (spec.id, spec.patient, spec.study, spec.view, spec.path, spec.template_id)
    if both := [name for name in classes if name in others]:
        raise UserError(
            f"{SPEC_FILE} names {listing(both)} as a class and as something else. Decide for one."
        )
    if strange := [name for name in classes if not name.isprintable()]:
        raise UserError(f"{file.path}: a line break or another control character in {listing(strange)}.")


def remaining_columns(spec: CsvSpec, file: CsvFile) -> tuple[str, ...]:
    """Every column that challenge.yaml does not name. Raises UserError if none is left, or is no label."""
    named = {file.column(name) for name in (spec.id, spec.patient, spec.study, spec.view, spec.path) if name}
    classes = tuple(name for name in file.columns if name not in named)
    if not classes:
        raise UserError(f"{file.path} has no class column beside {listing(sorted(named))}.")
    strange = [name for name in classes if not file.text(name).isin(list(columns.LABELS)).all()]
    if strange:
        values = file.text(strange[0])
        raise UserError(
            f"{file.path} has columns that hold other values than 0, 1 and blank: {listing(strange)}; see "
            f"{strange[0]!r} in {rows(values, ~values.isin(list(columns.LABELS)))}. "
            f"If they are no classes, list the classes in {SPEC_FILE} (classes: [...])."
        )
    return classes


def read_table(spec: CsvSpec, split: str, file: CsvFile, classes: tuple[str, ...]) -> pd.DataFrame:
    """A split's table. Only train must have every column: dev and test may lack patient, study and view."""

    def found(name: str | None) -> str | None:
        if name is None:
            return None
        return file.column(name) if split == "train" else file.optional_column(name)

    patient, study, view = found(spec.patient), found(spec.study), found(spec.view)
    image_id = columns.ids(file, file.column(spec.id))
    return columns.contract_table(
        file,
        image_id=image_id,
        patient=None if patient is None else columns.ids(file, patient),
        study=None if study is None else columns.ids(file, study),
        view=None if view is None else views(file.text(view)),
        path=columns.paths(file, file.column(spec.path or spec.id), spec.suffix),
        class_labels=columns.labels(file, classes, required=split == "train", task=spec.task),
    )
