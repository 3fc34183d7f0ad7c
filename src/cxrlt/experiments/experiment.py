"""What an experiment is to do, and where everything of it lies; lists of variants subclass it."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.experiments import FLAGS_OF, ExperimentPlan
from cxrlt.experiments.differences import RunScore, TruthResult
from cxrlt.experiments.variants import ExperimentVariant, Setting
from cxrlt.folds.read import Folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import rows_to_predict, what_is_behind
from cxrlt.predictions.present import Present
from cxrlt.provenance import in_words
from cxrlt.recipe import Recipe, override_recipe, differing_fields_affecting, load_recipe, run_name
from cxrlt.reports.experiment_page import PageFigure, PageTable, Section
from cxrlt.training.record import read_run
from cxrlt.training.run_paths import CONFIG, RUN, WEIGHTS
from cxrlt.training.train import TrainPlan

TUNING_SEED = 1000
"""The seed that learning rate and clipping are chosen on; its runs are not reported."""
Row = dict[str, object]
"""One row of a CSV file."""


@dataclass(frozen=True, eq=False)
class Run:
    """A variant with one seed on the experiment's folds."""

    variant: ExperimentVariant
    seed: int
    name: str
    recipe: Recipe

    def plan(self, fold: int) -> TrainPlan:
        return TrainPlan(self.name, self.recipe, (fold,), seed=self.seed)


@dataclass(frozen=True)
class ExperimentFigures:
    """Figures of the results against each truth, by its name, and sections that come after the results."""

    results: Mapping[str, Sequence[PageFigure]]
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Experiment:
    """A plan with everything looked up and checked. Raises UserError for what does not fit.

    A list of variants subclasses it, in a module of its own in lists/: it has to say its `what` and its
    `variants`, and may say more.
    """

    source: ImageSource
    plan: ExperimentPlan

    what: ClassVar[str]
    """What is compared, as `cxrlt compare` calls it."""
    key: ClassVar[str] = "variant"
    """The column of the CSV files that names the variant."""
    heading: ClassVar[str] = "variant"
    """The same column in texts."""
    tuned: ClassVar[bool] = False
    """Whether learning rate and clipping are chosen for every variant first."""
    train_set: ClassVar[bool] = False
    """Whether rows that the models were trained on are predicted, too."""
    as_evaluated: ClassVar[bool] = True
    """Whether runs are scored as `cxrlt evaluate` scores them, or without mean over studies and gate."""
    probabilities: ClassVar[bool] = False
    """Whether metrics of probabilities are added to those of their order."""
    difference_last: ClassVar[bool] = False
    """Whether the tables' difference comes after all metrics, or after the challenge's own."""
    columns: ClassVar[Sequence[tuple[str, Callable[[Row], str]]]] = ()
    """Further columns of the tables: heading, and cell from the row of results.csv."""
    legend: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        for other, flags in FLAGS_OF.items():
            given = [
                f"--{flag}" for flag in flags if getattr(self.plan, flag) != getattr(ExperimentPlan(), flag)
            ]
            if given and other != self.what:
                raise UserError(f"Only cxrlt compare {other} takes {' and '.join(given)}.")
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
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """The reference first."""
        raise NotImplementedError

    @property
    def left_out(self) -> Mapping[str, str]:
        """Variants that do not fit, and why."""
        return {}

    def opening(self) -> str:
        """The first lines that are printed."""
        n_runs = sum(variant.kind in ("trained", "second stage") for variant in self.variants)
        lines = [
            f"{self.title}: {', '.join(variant.name for variant in self.variants[1:])}",
            *self.left_out_lines(),
            f"{self.plan.seeds} seeds, {len(self.folds)} folds: "
            f"{n_runs * self.plan.seeds * len(self.folds)} trainings, {self.n_workers} at a time",
        ]
        return "\n".join(lines)

    def design(self, runs: Sequence[Run]) -> list[str]:
        """Paragraphs that say how the experiment was done."""
        recipe, folds = self.base, ", ".join(map(str, self.folds))
        return [
            f"{self.recipe_name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} "
            f"epochs; folds {folds} of {self.split.n_folds}, {self.plan.seeds} seeds."
        ]

    def describe(self, run: Run) -> Row:
        """What results.csv says of the variant of `run` before its numbers."""
        return {"what": run.variant.about}

    def measure(self, runs: Sequence[Run], settings: Mapping[str, Setting]) -> Mapping[str, Row]:
        """Further columns of results.csv for every variant, by its name."""
        return {run.variant.name: {} for run in runs}

    def run_values(self, run: Run, score: RunScore) -> Row:
        """Further columns of runs.csv."""
        return {}

    def more_tables(self, result: TruthResult) -> list[PageTable]:
        """Tables beside that of the results."""
        return []

    def figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """The report's figures, written into `results_dir`."""
        return ExperimentFigures({result.truth.name: () for result in results})

    @property
    def challenge(self) -> Challenge:
        return self.source.challenge

    @property
    def name(self) -> str:
        return self.plan.name or f"compare-{self.what}"

    @property
    def title(self) -> str:
        return f"{self.name} on {self.challenge.name}"

    @property
    def command(self) -> str:
        """What makes the experiment's files, as errors name it."""
        return f"cxrlt compare {self.what} {self.challenge.name}"

    def left_out_lines(self) -> list[str]:
        return [f"{name} is left out: {why}." for name, why in self.left_out.items()]

    @property
    def reference(self) -> ExperimentVariant:
        return self.variants[0]

    def is_reference(self, run: Run) -> bool:
        return run.variant.name == self.reference.name

    @cached_property
    def present(self) -> Present:
        """Tables, folds and pixels as they are when the experiment begins."""
        return Present(self.challenge, self.source.workspace)

    @cached_property
    def scored(self) -> Present:
        """The same of the rows that the experiment's folds leave out."""
        return self.present.only(self.folds)

    @property
    def split(self) -> Folds:
        return self.present.folds

    @property
    def recipe_name(self) -> str:
        return run_name(self.plan.recipe or self.challenge.recipes[0])

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
        """Processes that work side by side: one per GPU, or one per core."""
        return self.plan.workers or torch.cuda.device_count() or os.cpu_count() or 1

    @property
    def runs_dir(self) -> Path:
        return self.source.workspace.run_dir(self.challenge.name, self.name)

    @property
    def results_dir(self) -> Path:
        return self.source.workspace.submission_dir(self.challenge.name, self.name)

    def fold_dir(self, run: Run, fold: int) -> Path:
        return self.run_dir(run) / f"fold{fold}"

    def run_dir(self, run: Run) -> Path:
        return self.source.workspace.run_dir(self.challenge.name, run.name)

    def runs(self, settings: Mapping[str, Setting]) -> list[Run]:
        """Every variant with every seed; of a tuned experiment those that `settings` has, by name."""
        variants = [v for v in self.variants if not self.tuned or v.name in settings]
        return [self.run(v, seed, settings.get(v.name)) for v in variants for seed in range(self.plan.seeds)]

    def run(self, variant: ExperimentVariant, seed: int, setting: Setting | None = None) -> Run:
        """A reported run; its name holds the setting, so that one chosen from further rates has another."""
        recipe = variant.recipe(self.base)
        if variant.kind == "second stage":
            start = self._run_name(self.reference, seed, setting)
            recipe = override_recipe(recipe, {"model": {"init_from": start}})
        recipe = setting.on(recipe) if setting else recipe
        return Run(variant, seed, self._run_name(variant, seed, setting), recipe)

    def _run_name(self, variant: ExperimentVariant, seed: int, setting: Setting | None) -> str:
        return f"{self.name}/{variant.name}{f'-{setting}' if setting else ''}-seed{seed}"

    def tuning_run(self, variant: ExperimentVariant, setting: Setting) -> Run:
        """A run that only chooses: its first fold is its only one."""
        name = f"{self.name}/tuning/{variant.tuning}-{setting}"
        return Run(variant, TUNING_SEED, name, setting.on(variant.recipe(self.base)))

    def is_trained(self, run: Run, fold: int) -> bool:
        """Raises UserError if something else was trained in this run's place: recipe, split or data."""
        directory = self.fold_dir(run, fold)
        if (directory / RUN).is_file() and not self.plan.force:
            record = read_run(directory, self.challenge.name)
            differing = differing_fields_affecting(load_recipe(None, directory / CONFIG), run.recipe, "weights")
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

    def is_predicted(self, run: Run, folds: Collection[int], split: str = "oof") -> bool:
        """Whether the predictions of these folds are what `cxrlt predict` would write now."""
        return all(self._is_predicted(self.fold_dir(run, fold), fold, split) for fold in folds)

    def _is_predicted(self, directory: Path, fold: int, split: str) -> bool:
        path, rows = directory / f"{split}.parquet", rows_to_predict(fold, split, self.present)
        return path.is_file() and what_is_behind(path, split, rows, self.present).reason is None

    def unfinished(self, runs: Sequence[Run], folds: Sequence[int]) -> list[tuple[Run, int]]:
        """The folds of `runs` that are to be trained or predicted, interleaved by fold and seed.

        So machine noise affects all variants equally.
        """
        every = sorted(
            ((run, fold) for run in runs for fold in folds), key=lambda unit: (unit[1], unit[0].seed)
        )
        trained = [self.is_trained(*unit) for unit in every]  # all are looked at before any is begun
        return [
            (run, fold)
            for (run, fold), done in zip(every, trained, strict=True)
            if self.plan.force or not done or not self.is_predicted(run, (fold,))
        ]
