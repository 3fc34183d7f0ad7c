"""Commands that go through all the stages."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cxrlt.commands.base import ChallengeName, Images
from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.lists import experiment_names


@dataclass(frozen=True, kw_only=True)
class Run(Images):
    """From radiographs to a valid submission: every stage in order, one training job per visible GPU."""

    challenge: ChallengeName
    recipes: tuple[str, ...] | None = None
    """Names or YAML files of recipes (default: the challenge's own)."""
    n_folds: int | None = None
    """How many (default: 5; 3 for the demos)."""
    seed: int = 0
    quick: bool = False
    """200 patients and one epoch, through to the zip, in a place of its own: before days of GPU time."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""
    list_jobs: bool = False
    """Print the commands up to the trained models, for other machines to run, and run none of them."""

    def run(self) -> None:
        from cxrlt.pipeline import Plan, list_jobs, run

        source = self.source(self.challenge)
        n_folds = self.n_folds or source.challenge.n_folds
        plan = Plan(self.recipes, n_folds, self.seed, self.quick, self.drop_shared_patients)
        if self.list_jobs:
            print(list_jobs(source, plan))
        else:
            run(source, plan)


@dataclass(frozen=True, kw_only=True)
class Compare(Images):
    """Compare losses, or tricks: one recipe trained alike but for one thing, and what differs.

    Learning rate and gradient clipping are chosen per loss first; tricks are tried with the recipe's. An
    interrupted experiment goes on when started again; a finished one only rewrites its tables and figures.
    """

    kind: Positional[Literal[experiment_names()]]
    """What is compared."""
    challenge: ChallengeName
    plan: Annotated[ExperimentPlan, arg(name="")] = field(default_factory=ExperimentPlan)

    def run(self) -> None:
        from cxrlt.experiments.compare import compare
        from cxrlt.experiments.lists import experiment_named

        print(compare(experiment_named(self.kind)(self.source(self.challenge), self.plan)))
