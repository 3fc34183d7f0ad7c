"""What any experiment is to do, and where everything of it lies."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.folds.read import Folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import what_is_behind
from cxrlt.predictions.present import Present
from cxrlt.provenance import in_words
from cxrlt.recipe import Recipe, differing_in, load_recipe
from cxrlt.training.record import read_run
from cxrlt.training.run_paths import CONFIG, RUN, WEIGHTS
from cxrlt.training.train import TrainPlan


@dataclass(frozen=True, eq=False)
class Run:
    """One row of the comparison, `variant`, with one seed on the experiment's folds."""

    variant: str
    seed: int
    name: str
    recipe: Recipe

    def plan(self, fold: int, force: bool) -> TrainPlan:
        return TrainPlan(self.name, self.recipe, (fold,), seed=self.seed, force=force)


@dataclass(frozen=True)
class Experiment:
    """A plan with everything looked up and checked. Raises UserError for what does not fit."""

    source: ImageSource
    plan: ExperimentPlan

    kind = ""
    """What the experiment is called after, unless its plan gives it a name."""

    def __post_init__(self) -> None:
        if self.plan.seeds < 1:
            raise UserError("--seeds must be at least 1.")
        wrong = [fold for fold in self.folds if not 0 <= fold < self.split.n_folds]
        if wrong or not self.folds:
            last = self.split.n_folds - 1
            raise UserError(f"--folds {listing(wrong)}: {self.challenge.name} has folds 0 to {last}.")
        missing = [path for path in self.plan.truth if not path.is_file()]
        if missing:
            raise UserError(f"--truth: {listing(missing)} does not exist.")

    @property
    def challenge(self) -> Challenge:
        return self.source.challenge

    @property
    def name(self) -> str:
        return self.plan.name or f"compare-{self.kind}"

    @cached_property
    def present(self) -> Present:
        """Tables, folds and pixels as they are when the experiment begins."""
        return Present(self.challenge, self.source.workspace)

    @property
    def split(self) -> Folds:
        return self.present.folds

    @cached_property
    def base(self) -> Recipe:
        """The recipe that every run changes; loader processes are shared out among the workers."""
        recipe = load_recipe(self.plan.recipe or self.challenge.recipes[0])
        if recipe.data.n_workers is not None or not torch.cuda.is_available():
            return recipe
        n_workers = min(8, (os.cpu_count() or 1) // self.n_workers)
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"n_workers": n_workers})})

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(range(self.split.n_folds)) if self.plan.folds is None else self.plan.folds

    @property
    def n_workers(self) -> int:
        """Processes that train side by side: one per GPU, or one per core."""
        return self.plan.workers or torch.cuda.device_count() or os.cpu_count() or 1

    @property
    def runs_dir(self) -> Path:
        return self.source.workspace.run_dir(self.challenge.name, self.name)

    @property
    def results_dir(self) -> Path:
        return self.source.workspace.submission_dir(self.challenge.name, self.name)

    def log_of(self, label: str) -> Path:
        """Where a task writes what it prints."""
        words = label.replace(f"{self.name}/", "").replace("/", "-").replace(" ", "-")
        return self.runs_dir / "logs" / f"{words}.log"

    def fold_dir(self, run: Run, fold: int) -> Path:
        return self.source.workspace.run_dir(self.challenge.name, run.name) / f"fold{fold}"

    def is_trained(self, run: Run, fold: int) -> bool:
        """Raises UserError if something else was trained in this run's place: recipe, split or data."""
        directory = self.fold_dir(run, fold)
        if (directory / RUN).is_file() and not self.plan.force:
            record = read_run(directory, self.challenge.name)
            differing = differing_in(load_recipe(None, directory / CONFIG), run.recipe, "weights")
            if not self.split.has_trained(record.made_of, fold):
                differing.append("another split into folds")
            elif changes := self.present.changes_in_data(record, run.recipe):
                differing.append(in_words(changes))
            if differing:
                raise UserError(
                    f"{directory} already holds another run ({'; '.join(differing)}). "
                    "Give this experiment a --name of its own, or --force to do all of the old one again."
                )
        return (directory / WEIGHTS).is_file()

    def is_predicted(self, run: Run, fold: int, file: str = "oof.parquet", rows: int | None = None) -> bool:
        """Whether a fold's `file` is what predicting the images of fold `rows` (default: its own) gives."""
        path = self.fold_dir(run, fold) / file
        fold_of = self.present.rows.fold
        ids = fold_of.index[fold_of == (fold if rows is None else rows)]
        return what_is_behind(path, path.stem, ids, self.present).reason is None

    def todo(self, runs: Sequence[Run], folds: Sequence[int]) -> list[tuple[Run, int]]:
        """The folds of `runs` that are to be trained."""
        every = [(run, fold) for run in runs for fold in folds]
        trained = [self.is_trained(run, fold) for run, fold in every]  # all are looked at before any is begun
        return [unit for unit, done in zip(every, trained, strict=True) if self.plan.force or not done]
