"""What there is now, by which predictions and what was fitted on them are known to be current."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import listing
from cxrlt.folds.read import Folds
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.inputs.pixels import pixel_hashes
from cxrlt.predictions.trained import recipe_of
from cxrlt.provenance import MadeOf, OutdatedError, differing, digest_of_weights, in_words, made_of
from cxrlt.recipe import Recipe, fields_affecting
from cxrlt.system.atomic_files import file_state
from cxrlt.training.record import RunRecord, changes_in_data, classes_of, data_used, made_of_data
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_of, train_fold_command

if TYPE_CHECKING:
    from cxrlt.predictions.store import PredictionsFile

TRAINED_WITH = ("split", "classes")
"""Where one of these differs, predicting again is not enough."""
PIXEL_DIGITS = 16
TRAIN_ROWS = ("oof", "train_set")
"""What predictions of training rows are called; others have the name of their split."""


Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Present:
    """Tables, folds and pixels of a challenge as they are now, each read once, when first asked for.

    With `picked` only the training rows of those folds count; what weights were trained on is still compared
    with all rows.
    """

    challenge: Challenge
    workspace: Workspace
    picked: tuple[int, ...] | None = None
    _read: dict[tuple[object, ...], object] = field(default_factory=dict, repr=False)
    _predicted: dict[str, pd.Index] = field(default_factory=dict, repr=False)
    _current: set[tuple[object, ...]] = field(default_factory=set, init=False, repr=False)

    def _once(self, key: tuple[object, ...], read: Callable[[], Value]) -> Value:
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]

    @property
    def all_rows(self) -> TrainRows:
        """The training rows that are in folds."""
        return self._once(("rows",), lambda: read_train_rows(self.challenge, self.workspace))

    @cached_property
    def rows(self) -> TrainRows:
        """Those of the picked folds."""
        return self.all_rows if self.picked is None else self.all_rows.only(self.picked)

    @property
    def folds(self) -> Folds:
        return self.rows.folds

    def table(self, split: str) -> pd.DataFrame:
        """The rows of "oof" (those in folds), "dev" or "test"."""
        if split in TRAIN_ROWS:
            return self.rows.table
        inputs_dir = self.workspace.inputs_dir(self.challenge.name)
        return self._once(("table", split), lambda: self.challenge.read(split, inputs_dir))

    def pixels(self, split: str) -> pd.Series | None:
        """SHA-256 (hexadecimal) of each row's image file, NaN where it is not known; None: none is known."""
        name = "train" if split in TRAIN_ROWS else split
        table = self.all_rows.table if name == "train" else self.table(split)
        return self._once(("pixels", name), lambda: pixel_hashes(self.challenge, self.workspace, name, table))

    @property
    def partial(self) -> tuple[int, ...] | None:
        """The picked folds, where these are not all."""
        held = tuple(self.folds.held)
        return None if len(held) == self.folds.n_folds else held

    def only(self, folds: Collection[int]) -> "Present":
        """The same with the training rows of these folds alone."""
        return replace(self, picked=tuple(folds))

    @cached_property
    def labels_and_views(self) -> MadeOf:
        """Labels, patients, studies and views of the rows in folds."""
        table = self.rows.table
        return made_of(labels=table[list(self.challenge.classes)], views=table[["patient", "study", "view"]])

    def changes_in_data(self, record: RunRecord, recipe: Recipe) -> dict[str, list[str]]:
        """How what a fold was trained on differs from what there is now, in the words of `differing`."""
        used = data_used(recipe)
        now = self._once(
            ("data", record.fold, *used),
            lambda: made_of_data(self.challenge, self.all_rows, record.fold, self.pixels("oof"), *used),
        )
        return changes_in_data(record, now, self.rows)

    def pixel_numbers(self, split: str) -> pd.Series | None:
        """As predictions files keep them: the first 64 bits of `pixels`."""
        hashes = self.pixels(split)
        return None if hashes is None else self._once(("numbers", split), lambda: pixel_numbers(hashes))

    def unknown_pixels(self, split: str) -> list[str]:
        """A sentence where predicted images cannot be compared with those there are; else none."""
        predicted, now = self._predicted.get(split), self.pixels(split)
        if predicted is None:
            return []
        n = len(predicted) if now is None else int(now.reindex(predicted).isna().sum())
        sentence = (
            f"{n:,} images could not be compared with those that were predicted: no decoded image is kept of "
            "them"
        )
        return [sentence] if n else []

    def made_of_predictions(self, directory: Path, ids: pd.Index | None = None, split: str = "oof") -> MadeOf:
        """What predictions of the fold in `directory` would be made of now, pixels aside.

        Without weights where these were deleted. Studies and views count where the images of a study are seen
        together and all `ids` are rows of the split. Raises UserError for a damaged recipe.
        """
        recipe = recipe_of(directory, self.challenge.name)
        views = None
        if recipe.uses_fusion and ids is not None and ids.isin(self.table(split).index).all():
            views = self.table(split).loc[ids, ["study", "view"]]
        parts = made_of(
            classes=classes_of(self.challenge),
            recipe=fields_affecting(recipe, "weights", "logits"),
            views=views,
        )
        parts["rows"] = self.folds.identity.rows(fold_of(directory))
        if (directory / WEIGHTS).is_file():
            parts["weights"] = digest_of_weights(directory / WEIGHTS)
        return parts

    def differing(self, before: Mapping[str, object], now: MadeOf, fold: str | None) -> dict[str, list[str]]:
        """As `provenance.differing`; a split that was only extended is the same one."""
        found = differing(self.folds.accepting(before, fold), now)
        return ({"split": found.pop("rows")} if "rows" in found else {}) | found

    def changed_pixels(self, ids: pd.Index, before: pd.Series | None, split: str) -> pd.Index:
        """Those of `ids` whose image is known to be another than in `before` (`pixel_numbers` by id)."""
        now = self.pixels(split)
        if now is None:
            return ids[:0]
        here = _rows_of(self.pixel_numbers(split), ids)
        there = pd.Series(pd.NA, ids, dtype="UInt64") if before is None else _rows_of(before, ids)
        return ids[(here.notna() & (there.isna() | (here != there)).fillna(True)).to_numpy(bool)]

    def still_there(self, ids: pd.Index, split: str) -> NDArray[np.bool_]:
        """Which of `ids` the table of the split has."""
        rows = self.table(split).index
        return np.ones(len(ids), dtype=bool) if ids.equals(rows) else ids.isin(rows)

    def require_current(self, file: "PredictionsFile") -> None:
        """Raises OutdatedError if predictions were made of something else than there is now.

        It says what differs and what renews the file: the command that made it, or training where that is
        needed. Compared once as long as that file, the weights and the recipe stay the same.
        """
        path, meta, directory = file.path, file.meta, file.path.parent
        key = (path, *(file_state(each) for each in (path, directory / WEIGHTS, directory / CONFIG)))
        if key in self._current:
            return
        fold = fold_of(directory)
        now = self.made_of_predictions(directory, file.ids, meta.split)
        if found := self.differing(meta.made_of, now, fold):
            retrain = any(part in TRAINED_WITH for part in found)
            train = train_fold_command(directory.parent, fold, self.challenge.name)
            raise OutdatedError(
                f"{path} is outdated: it was made with {in_words(found)}. "
                f"Renew it with: {train if retrain else file.made_by} --force"
            )
        there = file.ids[self.still_there(file.ids, meta.split)]
        if file.pixels is not None:
            before = self._predicted.get(meta.split, there[:0])
            self._predicted[meta.split] = before.union(there, sort=False)
        if len(changed := self.changed_pixels(there, file.pixels, meta.split)):
            raise OutdatedError(
                f"{path} is outdated: {len(changed):,} of its {len(file.ids):,} images have other pixels "
                f"now: {listing(changed)}. Predict those again with: {file.made_by}"
            )
        self._current.add(key)


def _rows_of(values: pd.Series, ids: pd.Index) -> pd.Series:
    return values if values.index.equals(ids) else values.reindex(ids)


def pixel_numbers(hashes: pd.Series) -> pd.Series:
    """SHA-256 in hexadecimal (NaN: not known) to their first 64 bits, as UInt64."""
    known = hashes.notna().to_numpy()
    digits = "".join(digits[:PIXEL_DIGITS] for digits in hashes[known])
    numbers = np.zeros(len(hashes), np.uint64)
    numbers[known] = np.frombuffer(bytes.fromhex(digits), ">u8")
    return pd.Series(pd.arrays.IntegerArray(numbers, ~known), hashes.index)
