"""The commands that run all stages: run, compare, reproduce."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from cxrlt.challenges.base import SplitBy
from cxrlt.commands.base import ChallengeName, Command, ImageCommand
from cxrlt.experiments import ExperimentPlan, PaperName, ReproducePlan
from cxrlt.experiments.lists import experiment_names

if TYPE_CHECKING:  # a type checker cannot read the names
    ExperimentName = str
else:
    ExperimentName = Literal[experiment_names()]


@dataclass(frozen=True, kw_only=True)
class Run(ImageCommand):
    """Run every stage, from radiographs to a valid submission, with one training job per visible GPU."""

    challenge: ChallengeName
    recipes: tuple[str, ...] | None = None
    """Names or YAML files of recipes (default: those of the challenge)."""
    n_folds: int | None = None
    """Number of folds (default: 5; 3 for the demos)."""
    seed: int = 0
    """Random seed."""
    quick: bool = False
    """Smoke run: 200 patients, one epoch, in a separate folder. Finds errors before days of GPU time."""
    drop_shared_patients: bool = False
    """Remove patients from train who are also in dev or test."""
    by: SplitBy = "patient"
    """Split into folds by patient or by image: see cxrlt folds."""
    allow_leakage: bool = False
    """With --by image: split although patients have several images. Every score then repeats this."""
    list_jobs: bool = False
    """Only print the commands up to the trained models, so that you can run them on other machines."""
    plan: bool = False
    """Only print what the run would do and cost: time, disk and memory, estimated on this machine."""

    def run(self) -> None:
        from cxrlt.pipeline import Plan, list_jobs, run

        source = self.image_source(self.challenge)
        n_folds = self.n_folds or source.challenge.n_folds
        split = (self.drop_shared_patients, self.by, self.allow_leakage)
        plan = Plan(self.recipes, n_folds, self.seed, self.quick, *split)
        if self.plan:
            from cxrlt.run_plan import describe_plan

            print(describe_plan(source, plan))
        elif self.list_jobs:
            print(list_jobs(source, plan))
        else:
            run(source, plan)


@dataclass(frozen=True, kw_only=True)
class Status(Command):
    """Show the state of every run and fold: waiting, running, stopped, failed, done, outdated.

    Works in another terminal while `cxrlt run` or an experiment works, and after a crash. Changes nothing.
    """

    challenge: ChallengeName
    watch: bool = False
    """Show it again every two seconds until nothing is running or waiting."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        from cxrlt.reports.status import show_status

        challenge = self.load_challenge(self.challenge)
        show_status(challenge, self.workspace, watch=self.watch, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Compare(ImageCommand):
    """Run an experiment: train variants of one recipe that differ in one thing, such as the loss.

    For losses, learning rate and gradient clipping are tuned first; tricks use those of the recipe. To
    continue an interrupted experiment, run the same command again. A finished one only rewrites its tables
    and figures.
    """

    kind: Positional[ExperimentName]
    """The list of variants to compare."""
    challenge: ChallengeName
    plan: Annotated[ExperimentPlan, arg(name="")] = field(default_factory=ExperimentPlan)

    def run(self) -> None:
        from cxrlt.experiments.compare import compare
        from cxrlt.experiments.lists import load_experiment_class

        print(compare(load_experiment_class(self.kind)(self.image_source(self.challenge), self.plan)))


@dataclass(frozen=True, kw_only=True)
class Reproduce(ImageCommand):
    """Run the experiments of a paper: its losses on its data sets with its recipes, in one table.

    Every data set and recipe is one experiment, as in `cxrlt compare losses`. To continue an interrupted
    command, run it again.
    """

    paper: Positional[PaperName]
    """lmf: arXiv 2212.12741. ral: arXiv 2308.05542. class-aware: capstone project, FPT University, 2023."""
    plan: Annotated[ReproducePlan, arg(name="")] = field(default_factory=ReproducePlan)

    def run(self) -> None:
        from cxrlt.experiments.reproduce import reproduce

        print(reproduce(self.workspace, self.paper, self.plan, self.allow_missing, self.quarantine))
