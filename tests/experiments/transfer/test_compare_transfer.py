import json

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from cxrlt.errors import UserError
from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.transfer import VARIANTS, TransferExperiment
from cxrlt.experiments.tuning import candidate_settings
from cxrlt.models.backbone import create_model
from cxrlt.recipe import load_recipe, save_recipe
from tiny import tiny_recipe

ROWS = ["fine_tuned", "random", "layer_decay", "frozen_linear", "frozen_decoder"]


@pytest.fixture
def experiment(source, tmp_path):
    """Return an experiment from weights in a file, one epoch on fold 0 with one seed and two rates."""
    recipe = tiny_recipe(**{"schedule.epochs": 1})
    weights = tmp_path / "test_convnext.safetensors"
    backbone = create_model(recipe.model, 3, 32, 1).backbone
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, weights)
    path = tmp_path / "ours.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1, "model.pretrained": weights}), path)
    plan = ExperimentPlan(recipe=str(path), seeds=1, folds=(0,), rates=(0.5, 1.0), workers=1)
    return TransferExperiment(source, plan)


def test_the_rows_train_more_and_less_of_the_network(experiment):
    recipes = {row.name: row.recipe(experiment.base) for row in VARIANTS}
    assert [*recipes] == ROWS
    assert [name for name, recipe in recipes.items() if recipe.model.frozen] == ROWS[3:]
    assert [name for name, recipe in recipes.items() if not recipe.model.pretrained] == ["random"]
    assert [recipe.optim.layer_decay for recipe in recipes.values()] == [None, None, 0.75, None, None]
    assert recipes["frozen_decoder"].model.head.name == "ml_decoder"


def test_the_rows_fit_every_large_recipe():
    for name in ("ral_convnext_small", "ral_swin_base", "best_cxrlt2023"):
        assert all(row.recipe(load_recipe(name)) for row in VARIANTS)


def test_a_head_alone_is_tried_at_ten_times_the_learning_rates(experiment):
    by_name = {row.name: [s.lr for s in candidate_settings(experiment, row)] for row in VARIANTS}
    assert by_name["fine_tuned"] == by_name["layer_decay"] == [1e-3, 2e-3]
    assert by_name["frozen_linear"] == by_name["frozen_decoder"] == pytest.approx([1e-2, 2e-2])


def test_a_recipe_with_random_weights_is_refused(source, make_losses_plan):
    with pytest.raises(UserError, match=r"tiny starts from random weights: choose another --recipe\."):
        TransferExperiment(source, make_losses_plan(losses=None))


@pytest.mark.slow
def test_every_row_has_its_own_learning_rate_and_a_frozen_backbone_keeps_its_weights(experiment):
    text = compare(experiment)
    assert "for a head alone 10 times these" in text
    rows = pd.read_csv(experiment.results_dir / "results.csv").set_index("trained")
    assert list(rows.index) == ROWS
    assert rows.loc[ROWS[:3], "lr"].isin([1e-3, 2e-3]).all()
    assert rows.loc[ROWS[3:], "lr"].round(6).isin([1e-2, 2e-2]).all()
    assert rows.loc["fine_tuned", "training_time"] == 1
    tuned = json.loads((experiment.results_dir / "tuned.json").read_text())["settings"]
    assert [len(each["trials"]) for each in tuned.values()] == [3] * 5
    start = load_file(experiment.base.model.pretrained)
    (folder,) = experiment.runs_dir.glob("frozen_linear-*/fold0")
    trained = load_file(folder / "weights.safetensors")
    assert all(trained[f"backbone.{name}"].equal(tensor) for name, tensor in start.items())
