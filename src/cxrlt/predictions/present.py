"""What there is now, by which predictions and what was fitted on them are known to be current."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import listing
from cxrlt.folds.read import Folds
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.inputs.pixels import pixel_hashes
from cxrlt.predictions.store import PredictionsMeta, pixel_numbers, read_pixels
from cxrlt.predictions.trained import recipe_of
from cxrlt.provenance import MadeOf, OutdatedError, differing, digest_of_weights, in_words, made_of
from cxrlt.recipe import Recipe, fields_changing
from cxrlt.system.atomic_files import file_state
from cxrlt.training.record import RunRecord, changes_in_data, classes_of, data_used, made_of_data
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_of, train_command

TRAINED_WITH = ("split", "classes")
"""Where one of these differs, predicting again is not enough."""
TRAIN_ROWS = ("oof", "train_set")
"""What predictions of training rows are called; others have the name of their split."""


@dataclass(frozen=True, eq=False)
class Present:
    """Tables, folds and pixels of a challenge as they are now, each read once, when first asked for.

    Where only the training rows of some `picked` folds are looked at, what weights were trained on is still
    compared with all rows.
    """

    challenge: Challenge
    workspace: Workspace
    picked: tuple[int, ...] | None = None
    _whole: dict[str, TrainRows] = field(default_factory=dict, repr=False)
    _pixels: dict[str, pd.Series | None] = field(default_factory=dict, repr=False)
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    _data: dict[tuple[object, ...], MadeOf] = field(default_factory=dict, repr=False)
    _numbers: dict[str, pd.Series] = field(default_factory=dict, repr=False)
    _recorded: dict[str, pd.Index] = field(default_factory=dict, repr=False)
    _current: set[tuple[object, ...]] = field(default_factory=set, init=False, repr=False)

    @property
    def all_rows(self) -> TrainRows:
        """The training rows that are in folds."""
        if "train" not in self._whole:
            self._whole["train"] = read_train_rows(self.challenge, self.workspace)
        return self._whole["train"]

    @cached_property
    def rows(self) -> TrainRows:
        """Those of the folds at which is looked."""
        return self.all_rows if self.picked is None else self.all_rows.only(self.picked)

    @property
    def folds(self) -> Folds:
        return self.rows.folds

    def table(self, split: str) -> pd.DataFrame:
        """The rows of "oof" (those in folds), "dev" or "test"."""
        if split in TRAIN_ROWS:
            return self.rows.table
        if split not in self._tables:
            self._tables[split] = self.challenge.read(split, self.workspace.inputs_dir(self.challenge.name))
        return self._tables[split]

    def pixels(self, split: str) -> pd.Series | None:
        """SHA-256 (hexadecimal) of each row's image file, NaN where it is not known; None: none is known."""
        name = "train" if split in TRAIN_ROWS else split
        if name not in self._pixels:
            table = self.all_rows.table if name == "train" else self.table(split)
            self._pixels[name] = pixel_hashes(self.challenge, self.workspace, name, table)
        return self._pixels[name]

    @property
    def partial(self) -> tuple[int, ...] | None:
        """The folds whose rows are looked at, where that is not all of them."""
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
        return changes_in_data(record, self._training_data(record.fold, recipe), self.rows)

    def _training_data(self, fold: str, recipe: Recipe) -> MadeOf:
        key = (fold, *data_used(recipe))
        if key not in self._data:
            used = (self.challenge, self.all_rows, fold, self.pixels("oof"), *data_used(recipe))
            self._data[key] = made_of_data(*used)
        return self._data[key]

    def pixel_numbers(self, split: str) -> pd.Series | None:
        """As predictions files keep them: the first 64 bits of `pixels`."""
        hashes = self.pixels(split)
        if hashes is not None and split not in self._numbers:
            self._numbers[split] = pixel_numbers(hashes)
        return self._numbers.get(split)

    def unknown_pixels(self, split: str) -> list[str]:
        """A sentence where predicted images cannot be compared with those there are; else none."""
        predicted, now = self._recorded.get(split), self.pixels(split)
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
        if recipe.fuses and ids is not None and ids.isin(self.table(split).index).all():
            views = self.table(split).loc[ids, ["study", "view"]]
        parts = made_of(
            classes=classes_of(self.challenge),
            recipe=fields_changing(recipe, "weights", "logits"),
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

    def require_current(self, path: Path, meta: PredictionsMeta, made_by: str) -> None:
        """Raises OutdatedError if the predictions at `path` were made of something else than there is now.

        It says what differs and what renews the file: the command `made_by`, or training where that is
        needed. Looked at once as long as that file, the weights and the recipe stay the same.
        """
        directory, fold = path.parent, fold_of(path.parent)
        key = (path, *(file_state(each) for each in (path, directory / WEIGHTS, directory / CONFIG)))
        if key in self._current:
            return
        ids, pixels = read_pixels(path, made_by)
        found = self.differing(meta.made_of, self.made_of_predictions(directory, ids, meta.split), fold)
        if found:
            retrain = any(part in TRAINED_WITH for part in found)
            train = train_command(directory.parent, fold, self.challenge.name)
            raise OutdatedError(
                f"{path} is outdated: it was made with {in_words(found)}. "
                f"Renew it with: {train if retrain else made_by} --force"
            )
        there = ids[self.still_there(ids, meta.split)]
        if pixels is not None:
            before = self._recorded.get(meta.split, there[:0])
            self._recorded[meta.split] = before.union(there, sort=False)
        if len(changed := self.changed_pixels(there, pixels, meta.split)):
            raise OutdatedError(
                f"{path} is outdated: {len(changed):,} of its {len(ids):,} images have other pixels now: "
                f"{listing(changed)}. Predict those again with: {made_by}"
            )
        self._current.add(key)


def _rows_of(values: pd.Series, ids: pd.Index) -> pd.Series:
    return values if values.index.equals(ids) else values.reindex(ids)


def partial_note(present: Present) -> str:
    """What is said of everything that was made with --partial."""
    held = ", ".join(map(str, present.folds.held))
    return f"only of folds {held} of {present.folds.n_folds}, which are finished (--partial)"
