import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.ladder import LadderExperiment, steps
from cxrlt.recipe import differing_fields, load_recipe, save_recipe
from tiny import tiny_recipe

OURS = {"schedule.epochs": 1, "loss.name": "ral", "optim.clip_grad": 1.0, "optim.ema_share": 0.5}


@pytest.fixture
def make_ladder(source, tmp_path):
    """Return a factory of ladders to a tiny recipe with these fields, on fold 0."""

    def make(**fields):
        path = tmp_path / "ours.yaml"
        save_recipe(tiny_recipe(**{"schedule.epochs": 1, **fields}), path)
        return LadderExperiment(source, ExperimentPlan(recipe=str(path), seeds=1, folds=(0,), workers=1))

    return make


def changed_fields(before, after):
    return {line.partition(":")[0] for line in differing_fields(before, after)}


def test_each_row_adds_one_part_and_the_last_row_is_the_recipe(make_ladder):
    ladder = make_ladder(**OURS)
    recipes = {row.name: row.recipe(ladder.base) for row in ladder.variants}
    assert [*recipes] == ["plain", "augment", "schedule", "decay", "bias", "clip", "ema", "loss"]
    assert recipes["loss"] == ladder.base
    assert changed_fields(recipes["decay"], recipes["bias"]) == {"loss.bias_init"}
    assert changed_fields(recipes["bias"], recipes["clip"]) == {"optim.clip_grad"}
    assert changed_fields(recipes["clip"], recipes["ema"]) == {"optim.ema_share"}
    assert changed_fields(recipes["ema"], recipes["loss"]) == {"loss.name"}


def test_the_first_row_is_plain_whatever_the_recipe_has(make_ladder):
    plain = {row.name: row for row in make_ladder(**OURS).variants}["plain"]
    for name in ("ral_convnext_small", "best_cxrlt2024_task1", "class_aware_swin_base", "best_demo"):
        recipe = plain.recipe(load_recipe(name))
        assert (recipe.loss.name, recipe.loss.options, recipe.loss.bias_init) == ("bce", {}, "zero")
        assert (recipe.optim.clip_grad, recipe.optim.ema_share) == (None, 0.0)
        assert (recipe.optim.layer_decay, recipe.optim.weight_decay) == (None, 0.01)
        assert (recipe.model.head.name, recipe.schedule.warmup_share) == ("linear", 0.1)
        assert recipe.data.augment == load_recipe("ral_convnext_small").data.augment.model_copy(
            update={"policy": "medium"}
        )


def test_with_one_class_per_image_the_plain_loss_is_cross_entropy():
    assert [step.plain for step in steps("single_label") if step.name == "loss"] == [{"loss": {"name": "ce"}}]


def test_a_part_that_the_recipe_does_not_change_has_no_row(make_ladder):
    ladder = make_ladder(**OURS, **{"loss.bias_init": "zero", "optim.weight_decay": 0.01})
    assert not {"bias", "decay"} & {row.name for row in ladder.variants}


def test_a_plain_recipe_has_no_ladder(source, tmp_path, make_ladder):
    path = tmp_path / "short.yaml"
    save_recipe(make_ladder(**OURS).variants[0].recipe(tiny_recipe()), path)
    with pytest.raises(UserError, match=r"^short is as plain as the first row: choose another --recipe\.$"):
        LadderExperiment(source, ExperimentPlan(recipe=str(path)))


@pytest.mark.slow
def test_the_second_table_has_the_differences_between_neighbouring_rows(make_ladder):
    unchanged = {"loss.bias_init": "zero", "optim.weight_decay": 0.01, "schedule.warmup_share": 0.1}
    ladder = make_ladder(
        **{"loss.name": "ral", "optim.clip_grad": 0.1, "optim.ema_share": 0, "schedule.min_lr_share": 0},
        **unchanged,
        **{"data.augment": {"policy": "medium"}},
    )
    text = compare(ladder)
    rows = pd.read_csv(ladder.results_dir / "results.csv").set_index("row")
    assert list(rows.index) == ["plain", "clip", "loss"]
    metric = ladder.challenge.metric
    change = rows.loc["loss", metric] - rows.loc["clip", metric]
    (line,) = (line for line in text.splitlines() if line.startswith("| loss | clip |"))
    assert float(line.split("|")[3].split("[")[0].replace("−", "-")) == pytest.approx(change, abs=6e-4)
    assert abs(change) > 1e-3
