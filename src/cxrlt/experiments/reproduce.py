"""The stage `cxrlt reproduce`: every data set and recipe of a paper is one experiment on its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, get_args

from cxrlt.artifacts import Workspace
from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.errors import MissingFileError, UserError
from cxrlt.experiments import ExperimentPlan, PaperName, Protocol, ReproducePlan
from cxrlt.experiments.combined_report import Cell, write_combined_report
from cxrlt.experiments.compare import compare
from cxrlt.experiments.experiment import Row, Run
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.experiments.papers import PAPERS, experiment_name
from cxrlt.experiments.variants import ExperimentVariant, Fields, OptimSettings
from cxrlt.folds.make import make_folds
from cxrlt.folds.read import folds_command, read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.table import NoImagesError, load_table
from cxrlt.recipe import Recipe, load_recipe, override_recipe, run_name

EPOCHS = {
    "last": "the last epoch",
    "best": "the best epoch, which is chosen on the scored rows",
    "best_holdout": "the best epoch, which is chosen on rows that are not trained on and not scored",
}
"""What predict.weights means, for reports."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
ONE_EPOCH: Fields = {"schedule": {"epochs": 1}}


@dataclass(frozen=True)
class FairExperiment(LossExperiment):
    """The losses of a paper with the protocol "fair": learning rate tuned for each loss, last epoch."""

    paper: PaperName
    losses: tuple[str, ...] | None
    quick: bool
    changed_fields: Fields

    protocol: ClassVar[Protocol] = "fair"

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """The paper's losses that fit the challenge, the reference first."""
        return PAPERS[self.paper].variants(self.challenge.task, self.losses)

    @cached_property
    def base(self) -> Recipe:
        """The recipe with the fields of the protocol."""
        fields = {**self.changed_fields, **(ONE_EPOCH if self.quick else {})}
        return override_recipe(super().base, fields)

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"{super().title}, protocol {self.protocol}"

    @property
    def command(self) -> str:
        """The command that writes the experiment's files, for error messages."""
        return f"cxrlt reproduce {self.paper} --data {self.challenge.name} --protocol {self.protocol}"

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the paragraph about recipe and tuning, and one about the epoch."""
        return [*super().describe_design(runs), f"Weights of {EPOCHS[self.base.predict.weights]}."]


class PublishedExperiment(FairExperiment):
    """The same with the protocol "paper": the recipe's learning rate and epoch for every loss."""

    needs_tuning = False
    protocol = "paper"

    def measured_columns(
        self, runs: Sequence[Run], settings: Mapping[str, OptimSettings]
    ) -> Mapping[str, Row]:
        """Return the columns for the settings of the recipe."""
        setting = OptimSettings(self.base.optim.lr, self.base.optim.clip_grad)
        return super().measured_columns(runs, {variant.name: setting for variant in self.variants})


def reproduce(
    workspace: Workspace,
    paper: PaperName,
    plan: ReproducePlan,
    allow_missing: bool = False,
    quarantine: bool = False,
) -> str:
    """Run the experiment of every data set and recipe. Return the combined tables as Markdown.

    A data set without files is skipped with a line. With --list-jobs, only print the commands. Raises
    UserError for wrong flags before any training, and for experiments that failed after all others are done.
    """
    names, recipes = _checked_grid(workspace, paper, plan)
    cells: list[Cell] = []
    failures: dict[str, str] = {}
    for name in names:
        try:
            source = _open(workspace, name, paper, plan, recipes, allow_missing, quarantine)
        except (MissingFileError, NoImagesError) as error:
            print(f"{name} is skipped: {error}", flush=True)
            continue
        except UserError as error:
            failures[name] = str(error)
            continue
        if not PAPERS[paper].variants(source.challenge.task, plan.losses):
            print(f"{name} is skipped: it is {source.challenge.task}, which none of the losses fits.")
            continue
        for recipe in recipes:
            title = f"{experiment_name(paper, plan.quick)}/{run_name(recipe)}"
            workspaces = {protocol: _workspace_of(workspace, name, protocol) for protocol in PROTOCOLS}
            cells.append(Cell(source.challenge, run_name(recipe), title, workspaces))
            try:
                print(_run_experiment(source, paper, recipe, title, plan), flush=True)
            except UserError as error:
                failures[f"{title} on {name}"] = str(error)
    if not cells and not failures:
        raise UserError(
            f"{paper}: every data set is skipped, see above. docs/challenges.md says where their files go."
        )
    text = "" if plan.list_jobs else write_combined_report(workspace, paper, cells, plan.quick)
    if failures:
        print(text, flush=True)
        reasons = " ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{paper}: not every experiment is complete. {reasons}")
    return text


def _checked_grid(
    workspace: Workspace, paper: PaperName, plan: ReproducePlan
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the challenges and recipes. Raises UserError for unknown ones and wrong flags."""
    grid = PAPERS[paper]
    names, recipes = plan.data or grid.challenges, plan.recipes or grid.recipes[: 1 if plan.quick else None]
    for name in names:
        if name not in challenge_names():
            get_challenge(name)  # raises UserError with a suggestion
    for recipe in recipes:
        load_recipe(recipe)
    grid.variants("single_label", plan.losses)
    if len({*map(run_name, recipes)}) < len(recipes):
        raise UserError("--recipes: two recipes have the same name. Rename one of the files.")
    if (workspace.inputs or workspace.images) and len(names) > 1:
        raise UserError("--inputs and --images are folders of one data set: choose it with --data.")
    if plan.rates and plan.protocol == "paper":
        raise UserError("--rates: with --protocol paper every loss has the recipe's learning rate.")
    return names, recipes


def _open(
    workspace: Workspace,
    name: str,
    paper: PaperName,
    plan: ReproducePlan,
    recipes: Sequence[str],
    allow_missing: bool,
    quarantine: bool,
) -> ImageSource:
    """Return the images of a challenge, split into folds as the protocol says.

    Raises MissingFileError or NoImagesError if the data set is absent, and UserError if anything is wrong.
    """
    challenge = get_challenge(name, workspace.inputs_dir(name))
    own = _workspace_of(workspace, name, plan.protocol)
    source = ImageSource(challenge, own, allow_missing, quarantine)
    load_table(challenge, "train", own, allow_missing=allow_missing)
    if not own.folds_path(name).is_file():
        by_image = plan.protocol == "paper"
        if challenge.group_duplicates:  # the folds need the hashes in the cache
            source.load_split("train", load_recipe(recipes[0]).data.cache_size)
        flags: dict[str, Any] = {"by": "image" if by_image else "patient", "allow_leakage": by_image}
        n_folds = (by_image and PAPERS[paper].published_folds) or challenge.n_folds
        text = make_folds(challenge, own, n_folds, allow_missing=allow_missing, **flags)
        print(text, flush=True)
    record = read_folds(challenge, own).record
    if plan.protocol == "fair" and record.by == "image":
        again = folds_command(challenge, record.model_copy(update={"by": "patient"}))
        raise UserError(f"The folds are by image, but --protocol fair needs whole groups: {again} --force")
    return source


def _workspace_of(workspace: Workspace, name: str, protocol: Protocol) -> Workspace:
    """Return the folders of a protocol: that of the paper has another split, so it has another root."""
    if protocol == "fair":
        return workspace
    root = workspace.root / "folds" / "by-image"
    return Workspace(root, workspace.inputs_dir(name), workspace.images_dir(name), workspace.cache_dir())


def _run_experiment(
    source: ImageSource, paper: PaperName, recipe: str, title: str, plan: ReproducePlan
) -> str:
    """Run one experiment. Return the path of its report. Raises UserError if it is not complete."""
    seeds = plan.seeds if plan.seeds is not None else (1 if plan.quick else 2)
    folds = plan.folds if plan.folds is not None or not plan.quick else (0,)
    rates = plan.rates or ((1.0,) if plan.quick else ExperimentPlan.rates)
    engine_plan = ExperimentPlan(
        recipe,
        seeds=seeds,
        folds=folds,
        rates=rates,
        workers=plan.workers,
        name=title,
        force=plan.force,
        list_jobs=plan.list_jobs,
    )
    kind, fields = FairExperiment, PAPERS[paper].fair_fields(source.challenge)
    if plan.protocol == "paper":
        kind, fields = PublishedExperiment, PAPERS[paper].published_fields
    experiment = kind(source, engine_plan, paper, plan.losses, plan.quick, fields)
    text = compare(experiment)
    return text if plan.list_jobs else f"{experiment.results_dir / 'report.html'}"
