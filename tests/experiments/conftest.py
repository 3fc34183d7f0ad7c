from collections.abc import Callable
from pathlib import Path

import pytest

from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.experiments.losses.compare import compare_losses
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import save_recipe
from tiny import make_tiny, tiny_recipe


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with folds; experiments of different tests go by different names."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """An experiment of one epoch in this process, on fold 0, unless said otherwise."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "off"}), recipe)

    def make(**over: object) -> ExperimentPlan:
        usual = {"recipe": str(recipe), "losses": ("bce", "asl"), "seeds": 1, "folds": (0,)}
        return ExperimentPlan(**{**usual, "rates": (1.0,), "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def finished(source: ImageSource, plan: Callable[..., ExperimentPlan]) -> tuple[ExperimentPlan, Path, str]:
    """A whole experiment with two seeds, three rates and a second truth: its plan, results and text."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    whole = plan(seeds=2, folds=None, rates=(0.5, 1.0, 2.0), truth=(truth,))
    text = compare_losses(source, whole)
    return whole, source.workspace.submission_dir("csv", "compare-losses"), text
