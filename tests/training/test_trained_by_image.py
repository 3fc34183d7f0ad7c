"""Training and comparisons on a split by image say that its scores are too high."""

import pytest

from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.folds.make import make_folds
from cxrlt.folds.read import read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import save_recipe
from cxrlt.training.train import TrainPlan, train
from tiny import make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    source = make_tiny(tmp_path_factory.mktemp("leaky"), n_patients=12, n_folds=2)
    make_folds(source.challenge, source.workspace, 2, by="image", allow_leakage=True, force=True)
    return source


@pytest.fixture(scope="module")
def sentence(leaky: ImageSource) -> str:
    return read_folds(leaky.challenge, leaky.workspace).leakage_notes(leaky.challenge)[0]


def test_training_says_so_and_another_run_may_start_from_the_same_fold(leaky, sentence, capsys) -> None:
    train(leaky, TrainPlan("first", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    assert f"train first: {sentence}" in capsys.readouterr().out
    second = {"schedule.epochs": 1, "model.init_from": "first"}
    (job,) = train(leaky, TrainPlan("second", tiny_recipe(**second), folds=(0,)))
    assert job.is_finished


def test_the_report_of_an_experiment_says_so(leaky, sentence, tmp_path) -> None:
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), tmp_path / "tiny.yaml")
    recipe = str(tmp_path / "tiny.yaml")
    plan = ExperimentPlan(recipe=recipe, losses=("bce",), seeds=1, folds=(0,), rates=(1.0,), workers=1)
    assert sentence in compare(LossExperiment(leaky, plan))
    page = leaky.workspace.submission_dir("csv", "compare-losses") / "report.html"
    assert sentence in page.read_text()
