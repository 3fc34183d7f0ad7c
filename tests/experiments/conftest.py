from collections.abc import Callable
from pathlib import Path

import pytest

from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.experiments.lists.tricks import TrickExperiment
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import save_recipe
from tiny import make_tiny, tiny_recipe

TRICKS = ("gem", "crt", "flip", "study_mean", "calibrate", "mean", "context")
"""One variant of each kind, and one of each kind of prediction variant."""
FinishedExperiment = tuple[ExperimentPlan, Path, str]
"""A finished experiment: its plan, its results folder and its report."""


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """Return a tiny challenge with folds. Tests use different experiment names."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def make_losses_plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """Return a factory of plans for losses: by default one epoch on fold 0, in this process."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "off"}), recipe)

    def make(**over: object) -> ExperimentPlan:
        defaults = {"recipe": str(recipe), "losses": ("bce", "asl"), "seeds": 1, "folds": (0,)}
        return ExperimentPlan(**{**defaults, "rates": (1.0,), "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def make_tricks_plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """Return a factory of plans for tricks: one epoch, two seeds, a recipe with flips and study mean."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "on"}), recipe)

    def make(*tricks: str, **over: object) -> ExperimentPlan:
        return ExperimentPlan(**{"recipe": str(recipe), "tricks": tricks or None, "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def finished_losses(
    source: ImageSource, make_losses_plan: Callable[..., ExperimentPlan]
) -> FinishedExperiment:
    """Run an experiment on losses with two seeds, three learning rates and a second truth."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    plan = make_losses_plan(seeds=2, folds=None, rates=(0.5, 1.0, 2.0), truth=(truth,))
    text = compare(LossExperiment(source, plan))
    return plan, source.workspace.submission_dir("csv", "compare-losses"), text


@pytest.fixture(scope="session")
def finished_tricks(
    source: ImageSource, make_tricks_plan: Callable[..., ExperimentPlan]
) -> FinishedExperiment:
    """Run an experiment on tricks with a second truth."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    plan = make_tricks_plan(*TRICKS, truth=(truth,))
    text = compare(TrickExperiment(source, plan))
    return plan, source.workspace.submission_dir("csv", "compare-tricks"), text
