"""The base class of experiments: what to compare, which recipe, seeds and folds, and where the files are."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.experiments import EXPERIMENT_FLAGS, ExperimentPlan
from cxrlt.experiments.differences import RunScore, TruthResult
from cxrlt.experiments.variants import ExperimentVariant, OptimSettings
from cxrlt.folds.read import Folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.predict import find_pending, rows_to_predict
from cxrlt.provenance import describe_differences
from cxrlt.recipe import Recipe, differing_fields_affecting, load_recipe, override_recipe, run_name
from cxrlt.reports.page import PageFigure, PageTable, Section
from cxrlt.training.plan import TrainPlan
from cxrlt.training.record import read_run_record
from cxrlt.training.run_paths import CONFIG, RUN, WEIGHTS

TUNING_SEED = 1000
"""The seed of the runs that choose learning rate and clipping. These runs are not reported."""
Row = dict[str, Any]
"""One row of a CSV file."""


@dataclass(frozen=True, eq=False)
class Run:
    """A variant with one seed on the experiment's folds."""

    variant: ExperimentVariant
    seed: int
    name: str
    recipe: Recipe

    def plan(self, fold: int) -> TrainPlan:
        """Return the training plan of one fold."""
        return TrainPlan(self.name, self.recipe, (fold,), seed=self.seed)


@dataclass(frozen=True)
class ExperimentFigures:
    """Figures of the results, by the truth's name, and sections that follow the results."""

    results: Mapping[str, Sequence[PageFigure]]
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Experiment:
    """A checked plan. Raises UserError for flags, folds or files that are wrong.

    Every module in lists/ defines one subclass with its `kind` and `variants`; the other class attributes and
    methods are optional.
    """

    source: ImageSource
    plan: ExperimentPlan

    kind: ClassVar[str]
    """The word after `cxrlt compare`."""
    key_column: ClassVar[str] = "variant"
    """Column of the CSV files with the variant's name."""
    heading: ClassVar[str] = "variant"
    """Heading of this column in the report's tables."""
    needs_tuning: ClassVar[bool] = False
    """Whether learning rate and clipping are tuned for every variant first."""
    predicts_train_set: ClassVar[bool] = False
    """Whether the models also predict rows that they were trained on."""
    uses_final_logits: ClassVar[bool] = True
    """Whether runs are scored as in `cxrlt evaluate`. If not, without study mean and gate."""
    scores_probabilities: ClassVar[bool] = False
    """Whether to add metrics of probabilities (mF1, calibration error) to the ranking metrics."""
    difference_last: ClassVar[bool] = False
    """Whether the difference column follows all metrics. If not, it follows the challenge's metric."""
    extra_columns: ClassVar[Sequence[tuple[str, Callable[[Row], str]]]] = ()
    """Further columns of the tables: heading, and the function that formats a row of results.csv."""
    legend: ClassVar[Sequence[str]] = ()
    """Further sentences that explain the tables."""

    def __post_init__(self) -> None:
        for flag, kinds in EXPERIMENT_FLAGS.items():
            given = getattr(self.plan, flag) != getattr(ExperimentPlan(), flag)
            if given and self.kind not in kinds:
                raise UserError(f"--{flag} is a flag of cxrlt compare {' and '.join(kinds)} only.")
        if not self.plan.rates or min(self.plan.rates) <= 0:
            raise UserError("All --rates must be greater than 0.")
        if self.plan.seeds < 1:
            raise UserError("--seeds must be at least 1.")
        wrong = [fold for fold in self.folds if not 0 <= fold < self.fold_assignment.n_folds]
        if wrong or not self.folds:
            last = self.fold_assignment.n_folds - 1
            raise UserError(f"--folds {listing(wrong)}: {self.challenge.name} has folds 0 to {last}.")
        missing = [path for path in self.plan.truth if not path.is_file()]
        if missing:
            raise UserError(f"--truth: {listing(missing)} does not exist.")

    @property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """All variants, the reference first. Raises NotImplementedError in this base class."""
        raise NotImplementedError

    @property
    def excluded(self) -> Mapping[str, str]:
        """Variants that cannot be compared -> the reason."""
        return {}

    def start_message(self) -> str:
        """Return the lines to print at the start."""
        n_runs = sum(variant.kind in ("trained", "second stage") for variant in self.variants)
        lines = [
            f"{self.title}: {', '.join(variant.name for variant in self.variants[1:])}",
            *self.excluded_lines(),
            f"{self.plan.seeds} seeds, {len(self.folds)} folds: "
            f"{n_runs * self.plan.seeds * len(self.folds)} trainings, {self.n_workers} at a time",
        ]
        return "\n".join(lines)

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the report's paragraphs about the design of the experiment."""
        recipe, folds = self.base, ", ".join(map(str, self.folds))
        return [
            f"{self.recipe_name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} "
            f"epochs; folds {folds} of {self.fold_assignment.n_folds}, {self.plan.seeds} seeds."
        ]

    def variant_columns(self, run: Run) -> Row:
        """Return the columns of results.csv that describe the variant of `run`."""
        return {"what": run.variant.description}

    def measured_columns(
        self, runs: Sequence[Run], settings: Mapping[str, OptimSettings]
    ) -> Mapping[str, Row]:
        """Return further measured columns of results.csv for every variant, by its name."""
        return {run.variant.name: {} for run in runs}

    def run_columns(self, run: Run, score: RunScore) -> Row:
        """Return further columns of runs.csv."""
        return {}

    def extra_tables(self, result: TruthResult) -> list[PageTable]:
        """Return the tables that follow the table of results."""
        return []

    def make_figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Save the report's figures in `results_dir` and return them."""
        return ExperimentFigures({result.truth.name: () for result in results})

    @property
    def challenge(self) -> Challenge:
        """The challenge of the image source."""
        return self.source.challenge

    @property
    def name(self) -> str:
        """Name of the experiment, and of the folder of its runs and results."""
        return self.plan.name or f"compare-{self.kind}"

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"{self.name} on {self.challenge.name}"

    @property
    def command(self) -> str:
        """The command that writes the experiment's files, for error messages."""
        return f"cxrlt compare {self.kind} {self.challenge.name}"

    def excluded_lines(self) -> list[str]:
        """Return one sentence per excluded variant."""
        return [f"{name} is excluded: {why}." for name, why in self.excluded.items()]

    @property
    def reference(self) -> ExperimentVariant:
        """The variant that the others are compared with."""
        return self.variants[0]

    def is_reference(self, run: Run) -> bool:
        """Return whether the run is of the reference variant."""
        return run.variant.name == self.reference.name

    @cached_property
    def current_data(self) -> CurrentData:
        """Tables, folds and pixels at the start of the experiment."""
        return CurrentData(self.challenge, self.source.workspace)

    @cached_property
    def scored_data(self) -> CurrentData:
        """The rows of `current_data` in the experiment's folds."""
        return self.current_data.for_folds(self.folds)

    @property
    def fold_assignment(self) -> Folds:
        """The fold of every training row."""
        return self.current_data.folds

    @property
    def recipe_name(self) -> str:
        """Name of the base recipe."""
        return run_name(self.plan.recipe or self.challenge.recipes[0])

    @cached_property
    def base(self) -> Recipe:
        """The recipe that every variant changes. Parallel trainings share the cores for data loading."""
        recipe = load_recipe(self.plan.recipe or self.challenge.recipes[0])
        if recipe.data.n_workers is not None or not torch.cuda.is_available():
            return recipe
        n_workers = min(8, (os.cpu_count() or 1) // self.n_workers)
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"n_workers": n_workers})})

    @property
    def tuned_lrs(self) -> str:
        """The learning rates that a tuned experiment tries, as text."""
        return ", ".join(f"{self.base.optim.lr * rate:.3g}" for rate in sorted(set(self.plan.rates)))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds to train, predict and score."""
        return tuple(range(self.fold_assignment.n_folds)) if self.plan.folds is None else self.plan.folds

    @property
    def n_workers(self) -> int:
        """Number of parallel processes (default: one per GPU, without a GPU one per core)."""
        return self.plan.workers or torch.cuda.device_count() or os.cpu_count() or 1

    @property
    def runs_dir(self) -> Path:
        """Folder of the experiment's runs, under folds/."""
        return self.source.workspace.run_dir(self.challenge.name, self.name)

    @property
    def results_dir(self) -> Path:
        """Folder of the experiment's tables and report, under submissions/."""
        return self.source.workspace.submission_dir(self.challenge.name, self.name)

    def fold_dir(self, run: Run, fold: int) -> Path:
        """Return the folder of one fold of a run."""
        return self.run_dir(run) / f"fold{fold}"

    def run_dir(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.source.workspace.run_dir(self.challenge.name, run.name)

    def runs(self, settings: Mapping[str, OptimSettings]) -> list[Run]:
        """Return every variant with every seed; in a tuned experiment only the variants in `settings`."""
        variants = [v for v in self.variants if not self.needs_tuning or v.name in settings]
        return [self.run(v, seed, settings.get(v.name)) for v in variants for seed in range(self.plan.seeds)]

    def run(self, variant: ExperimentVariant, seed: int, setting: OptimSettings | None = None) -> Run:
        """Return a reported run. Its name includes the setting, so that another choice gets another name."""
        recipe = variant.recipe(self.base)
        if variant.kind == "second stage":
            init_from = self._run_name(self.reference, seed, setting)
            recipe = override_recipe(recipe, {"model": {"init_from": init_from}})
        recipe = setting.apply_to(recipe) if setting else recipe
        return Run(variant, seed, self._run_name(variant, seed, setting), recipe)

    def _run_name(self, variant: ExperimentVariant, seed: int, setting: OptimSettings | None) -> str:
        return f"{self.name}/{variant.name}{f'-{setting}' if setting else ''}-seed{seed}"

    def candidate_run(self, variant: ExperimentVariant, setting: OptimSettings) -> Run:
        """Return a run that evaluates one candidate setting on the first fold."""
        name = f"{self.name}/tuning/{variant.tuning_name}-{setting}"
        return Run(variant, TUNING_SEED, name, setting.apply_to(variant.recipe(self.base)))

    def is_trained(self, run: Run, fold: int) -> bool:
        """Return whether the fold has weights.

        Raises UserError if the folder holds a run with another recipe, split or data.
        """
        directory = self.fold_dir(run, fold)
        if (directory / RUN).is_file() and not self.plan.force:
            record = read_run_record(directory, self.challenge.name)
            differing = differing_fields_affecting(
                load_recipe(None, directory / CONFIG), run.recipe, "weights"
            )
            if not self.fold_assignment.was_training_split(record.provenance, fold):
                differing.append("another split into folds")
            elif changes := self.current_data.data_changes(record, run.recipe):
                differing.append(describe_differences(changes))
            if differing:
                raise UserError(
                    f"{directory} already holds another run ({'; '.join(differing)}). "
                    "Choose another --name for this experiment, or use --force to redo the old one."
                )
        return (directory / WEIGHTS).is_file()

    def is_predicted(self, run: Run, folds: Collection[int], split: str = "oof") -> bool:
        """Return whether the predictions of these folds are up to date."""
        return all(self._is_predicted(self.fold_dir(run, fold), fold, split) for fold in folds)

    def _is_predicted(self, directory: Path, fold: int, split: str) -> bool:
        path, rows = directory / f"{split}.parquet", rows_to_predict(fold, split, self.current_data)
        return path.is_file() and find_pending(path, split, rows, self.current_data).reason is None

    def unfinished_folds(self, runs: Sequence[Run], folds: Sequence[int]) -> list[tuple[Run, int]]:
        """Return the folds of `runs` that need training or prediction.

        Interleaved by fold and seed, so that machine noise affects all variants equally.
        """
        pairs = sorted(
            ((run, fold) for run in runs for fold in folds), key=lambda pair: (pair[1], pair[0].seed)
        )
        trained = [self.is_trained(run, fold) for run, fold in pairs]  # check all before training any
        return [
            (run, fold)
            for (run, fold), done in zip(pairs, trained, strict=True)
            if self.plan.force or not done or not self.is_predicted(run, (fold,))
        ]
