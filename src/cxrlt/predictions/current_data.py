"""The current tables, folds and pixels of a challenge, and the check whether predictions still match them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import listing
from cxrlt.folds.read import Folds
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.inputs.image_hashes import image_hashes
from cxrlt.predictions.trained_folds import read_fold_recipe
from cxrlt.provenance import (
    OutdatedError,
    Provenance,
    describe_differences,
    digest_of_weights,
    find_differences,
    provenance_of,
)
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.system.atomic_files import file_state
from cxrlt.training.record import RunRecord, class_identity, data_changes, data_dependencies, data_provenance
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_from_dir, train_fold_command

if TYPE_CHECKING:
    from cxrlt.predictions.store import PredictionsFile

RETRAIN_PARTS = ("split", "classes")
"""If one of these parts differs, the fold must be trained again; predicting again is not enough."""
N_FINGERPRINT_DIGITS = 16
"""Hexadecimal digits of a pixel hash that predictions files keep: 64 bits."""
TRAIN_ROWS = ("oof", "train_set")
"""Names of predictions of training rows. Other predictions have the name of their split."""

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class CurrentData:
    """Tables, folds and pixel hashes of a challenge as they are now, each read once, on first use.

    `fold_subset` limits the training rows to these folds. The data a fold was trained on is always compared
    with all rows.
    """

    challenge: Challenge
    workspace: Workspace
    fold_subset: tuple[int, ...] | None = None
    _cache: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)
    _predicted_ids: dict[str, pd.Index] = field(default_factory=dict, repr=False)
    _verified: set[tuple[object, ...]] = field(default_factory=set, init=False, repr=False)

    def _read_once(self, key: tuple[object, ...], read: Callable[[], Value]) -> Value:
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]

    @property
    def all_rows(self) -> TrainRows:
        """The training rows that belong to a fold."""
        return self._read_once(("rows",), lambda: read_train_rows(self.challenge, self.workspace))

    @cached_property
    def rows(self) -> TrainRows:
        """The training rows of the chosen folds (`fold_subset`), or all of them."""
        return self.all_rows if self.fold_subset is None else self.all_rows.for_folds(self.fold_subset)

    @property
    def folds(self) -> Folds:
        """The folds of `rows`."""
        return self.rows.folds

    def table(self, split: str) -> pd.DataFrame:
        """Return the table of "oof" and "train_set" (`rows`), "dev" or "test", with index image_id."""
        if split in TRAIN_ROWS:
            return self.rows.table
        inputs_dir = self.workspace.inputs_dir(self.challenge.name)
        return self._read_once(("table", split), lambda: self.challenge.read(split, inputs_dir))

    def pixels(self, split: str) -> pd.Series | None:
        """Return the SHA-256 (hexadecimal) of each image file, by id: NaN if unknown, None if all are."""
        name = "train" if split in TRAIN_ROWS else split
        table = self.all_rows.table if name == "train" else self.table(split)
        return self._read_once(
            ("pixels", name), lambda: image_hashes(self.challenge, self.workspace, name, table)
        )

    @property
    def partial(self) -> tuple[int, ...] | None:
        """The chosen folds, or None if these are all folds."""
        held = tuple(self.folds.fold_numbers)
        return None if len(held) == self.folds.n_folds else held

    def for_folds(self, folds: Collection[int]) -> "CurrentData":
        """Return a copy that has only the training rows of these folds."""
        return replace(self, fold_subset=tuple(folds))

    @cached_property
    def labels_and_views(self) -> Provenance:
        """Digests of the labels, patients, studies and views of `rows`."""
        table = self.rows.table
        return provenance_of(
            labels=table[list(self.challenge.classes)], views=table[["patient", "study", "view"]]
        )

    def data_changes(self, record: RunRecord, recipe: Recipe) -> dict[str, list[str]]:
        """Return how the data that a fold was trained on has changed, in the form of `find_differences`."""
        used = data_dependencies(recipe)
        now = self._read_once(
            ("data", record.fold, *used),
            lambda: data_provenance(self.challenge, self.all_rows, record.fold, self.pixels("oof"), *used),
        )
        return data_changes(record, now, self.rows)

    def pixel_fingerprints(self, split: str) -> pd.Series | None:
        """Return the first 64 bits of `pixels` (UInt64, by id), the form that predictions files keep."""
        hashes = self.pixels(split)
        if hashes is None:
            return None
        return self._read_once(("fingerprints", split), lambda: pixel_fingerprints(hashes))

    def unknown_pixels_notes(self, split: str) -> list[str]:
        """Return a note if some predicted images cannot be compared with the current images, else []."""
        predicted, now = self._predicted_ids.get(split), self.pixels(split)
        if predicted is None:
            return []
        n = len(predicted) if now is None else int(now.reindex(predicted).isna().sum())
        note = (
            f"the pixels of {n:,} images could not be compared with the predicted ones: they are not cached"
        )
        return [note] if n else []

    def predictions_provenance(
        self, directory: Path, ids: pd.Index | None = None, split: str = "oof"
    ) -> Provenance:
        """Return the provenance that predictions of the fold in `directory` would have now, without pixels.

        It lacks the weights if their file was deleted. It includes studies and views if the model fuses the
        images of a study and all `ids` are rows of the split. Raises UserError if the recipe is damaged.
        """
        recipe = read_fold_recipe(directory, self.challenge.name)
        views = None
        if recipe.uses_fusion and ids is not None and ids.isin(self.table(split).index).all():
            views = self.table(split).loc[ids, ["study", "view"]]
        parts = provenance_of(
            classes=class_identity(self.challenge),
            recipe=fields_affecting(recipe, "weights", "logits"),
            views=views,
        )
        parts["rows"] = self.folds.identity.rows(fold_from_dir(directory))
        if (directory / WEIGHTS).is_file():
            parts["weights"] = digest_of_weights(directory / WEIGHTS)
        return parts

    def find_differences(
        self, before: Mapping[str, object], now: Provenance, fold: str | None
    ) -> dict[str, list[str]]:
        """Call `provenance.find_differences`, but treat a split that was only extended as unchanged."""
        found = find_differences(self.folds.with_current_digests(before, fold), now)
        return ({"split": found.pop("rows")} if "rows" in found else {}) | found

    def changed_pixels(self, ids: pd.Index, before: pd.Series | None, split: str) -> pd.Index:
        """Return those of `ids` whose pixels differ from `before` (`pixel_fingerprints` by id)."""
        fingerprints = self.pixel_fingerprints(split)
        if fingerprints is None:
            return ids[:0]
        new = _select_rows(fingerprints, ids)
        old = pd.Series(pd.NA, ids, dtype="UInt64") if before is None else _select_rows(before, ids)
        return ids[(new.notna() & (old.isna() | (new != old)).fillna(True)).to_numpy(bool)]

    def in_table(self, ids: pd.Index, split: str) -> NDArray[np.bool_]:
        """Return a mask (n_ids,) of the ids that are rows of the split's table."""
        rows = self.table(split).index
        return np.ones(len(ids), dtype=bool) if ids.equals(rows) else ids.isin(rows)

    def require_current(self, file: "PredictionsFile") -> None:
        """Raise OutdatedError if a predictions file does not match the current data, weights and recipe.

        The message names what differs and the command that renews the file: the command that made it, or
        training if that is needed. The result is cached until the file, the weights or the recipe change.
        """
        path, meta, directory = file.path, file.meta, file.path.parent
        key = (path, *(file_state(each) for each in (path, directory / WEIGHTS, directory / CONFIG)))
        if key in self._verified:
            return
        fold = fold_from_dir(directory)
        now = self.predictions_provenance(directory, file.ids, meta.split)
        if found := self.find_differences(meta.provenance, now, fold):
            retrain = any(part in RETRAIN_PARTS for part in found)
            train = train_fold_command(directory.parent, fold, self.challenge.name)
            raise OutdatedError(
                f"{path} is outdated: it was made with {describe_differences(found)}. "
                f"Renew it with: {train if retrain else file.made_by} --force"
            )
        ids = file.ids[self.in_table(file.ids, meta.split)]
        if file.pixels is not None:
            before = self._predicted_ids.get(meta.split, ids[:0])
            self._predicted_ids[meta.split] = before.union(ids, sort=False)
        if len(changed := self.changed_pixels(ids, file.pixels, meta.split)):
            raise OutdatedError(
                f"{path} is outdated: {len(changed):,} of its {len(file.ids):,} images have changed pixels: "
                f"{listing(changed)}. Predict these images again with: {file.made_by}"
            )
        self._verified.add(key)


def _select_rows(values: pd.Series, ids: pd.Index) -> pd.Series:
    return values if values.index.equals(ids) else values.reindex(ids)


def pixel_fingerprints(hashes: pd.Series) -> pd.Series:
    """Return the first 64 bits of SHA-256 hashes in hexadecimal, as UInt64 (same index); NaN gives NA."""
    known = hashes.notna().to_numpy()
    digits = "".join(digits[:N_FINGERPRINT_DIGITS] for digits in hashes[known])
    numbers = np.zeros(len(hashes), np.uint64)
    numbers[known] = np.frombuffer(bytes.fromhex(digits), ">u8")
    return pd.Series(pd.arrays.IntegerArray(numbers, ~known), hashes.index)
