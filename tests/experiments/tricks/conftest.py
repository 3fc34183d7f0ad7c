from collections.abc import Callable
from pathlib import Path

import pytest

from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.experiments.tricks.compare import compare_tricks
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import save_recipe
from tiny import make_tiny, tiny_recipe

TRICKS = ("gem", "crt", "flip", "study_mean", "calibrate", "mean", "context")
"""Of every stage one, of predictions one of each kind."""


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """A challenge of their own: experiments of losses go by the same names."""
    return make_tiny(tmp_path_factory.mktemp("tricks"))


@pytest.fixture(scope="session")
def tricks_plan(tmp_path_factory) -> Callable[..., ExperimentPlan]:
    """One epoch, two seeds, in this process, unless said otherwise; the recipe mirrors and averages."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "predict.study_mean": "on"}), recipe)

    def make(*tricks: str, **over: object) -> ExperimentPlan:
        return ExperimentPlan(**{"recipe": str(recipe), "tricks": tricks or None, "workers": 1, **over})

    return make


@pytest.fixture(scope="session")
def compared(
    source: ImageSource, tricks_plan: Callable[..., ExperimentPlan]
) -> tuple[ExperimentPlan, Path, str]:
    """A whole experiment with a second truth: its plan, results and text."""
    truth = source.workspace.inputs_dir("csv") / "train.csv"
    plan = tricks_plan(*TRICKS, truth=(truth,))
    text = compare_tricks(source, plan)
    return plan, source.workspace.submission_dir("csv", "compare-tricks"), text
