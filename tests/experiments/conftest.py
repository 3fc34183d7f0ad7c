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
"""Of every kind of variant one, of predictions one of each kind."""
Finished = tuple[ExperimentPlan, Path, str]
"""A whole experiment: its plan, the folder of its results, and its text."""


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with folds; experiments of different tests go by different names."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """Losses with one epoch in this process, on fold 0, unless said otherwise."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "off"}), recipe)

    def make(**over: object) -> ExperimentPlan:
        usual = {"recipe": str(recipe), "losses": ("bce", "asl"), "seeds": 1, "folds": (0,)}
        return ExperimentPlan(**{**usual, "rates": (1.0,), "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def tricks_plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """Tricks with one epoch and two seeds, in this process; the recipe mirrors and averages."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "on"}), recipe)

    def make(*tricks: str, **over: object) -> ExperimentPlan:
        return ExperimentPlan(**{"recipe": str(recipe), "tricks": tricks or None, "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def finished(source: ImageSource, plan: Callable[..., ExperimentPlan]) -> Finished:
    """Losses, with two seeds, three rates and a second truth."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    whole = plan(seeds=2, folds=None, rates=(0.5, 1.0, 2.0), truth=(truth,))
    text = compare(LossExperiment(source, whole))
    return whole, source.workspace.submission_dir("csv", "compare-losses"), text


@pytest.fixture(scope="session")
def compared(source: ImageSource, tricks_plan: Callable[..., ExperimentPlan]) -> Finished:
    """Tricks, with a second truth."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    whole = tricks_plan(*TRICKS, truth=(truth,))
    text = compare(TrickExperiment(source, whole))
    return whole, source.workspace.submission_dir("csv", "compare-tricks"), text
