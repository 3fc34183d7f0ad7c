"""The grids of the papers."""

import pytest

from cxrlt.challenges import challenge_names
from cxrlt.errors import UserError
from cxrlt.experiments.papers import PAPERS, published_numbers
from cxrlt.losses import create_loss
from cxrlt.recipe import load_recipe

COUNTS = {"classes": ["a", "b", "c"], "class_counts": {"a": 60, "b": 30, "c": 10}, "n_samples": 100}


def names(paper, task):
    return [variant.name for variant in PAPERS[paper].variants(task)]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_challenge_recipe_and_loss_of_a_grid_exists(paper):
    grid = PAPERS[paper]
    assert {*grid.challenges} <= {*challenge_names()}
    bases = [load_recipe(recipe) for recipe in grid.recipes]
    for task in ("multi_label", "single_label"):
        for variant in grid.variants(task):
            loss = variant.recipe(bases[0]).loss
            create_loss(loss.name, **COUNTS, **loss.options)


def test_lmf_has_three_architectures_four_sets_and_the_losses_of_its_code_with_two_beside_them():
    grid = PAPERS["lmf"]
    assert {*grid.recipes} == {"lmf_efficientnetv2_s", "lmf_resnet50", "lmf_densenet121"}
    assert grid.challenges == ("ham10000", "isic2019", "odir5k", "covid-radiography")
    expected = ["ce", "softmax_focal", "ldam", "lmf", "bwcce", "balanced_softmax", "logit_adjusted"]
    assert names("lmf", "single_label") == expected


def test_ral_single_is_compared_only_where_an_image_has_one_class():
    multi_label = ["bce", "focal", "asl", "apl", "hill", "ral", "ral-released"]
    assert PAPERS["ral"].challenges == ("isic2018", "aptos2019", "cxrlt2023", "nihlt")
    assert names("ral", "multi_label") == multi_label
    assert names("ral", "single_label") == [*multi_label, "ral_single"]


def test_the_class_aware_table_has_six_rows_on_nih14_and_a_published_number_for_each():
    published = published_numbers("class-aware")
    rows = names("class-aware", "multi_label")
    assert len(rows) == 6
    assert PAPERS["class-aware"].challenges == ("nih14",)
    found = published.set_index(["loss", "metric"])["value"]
    assert {*found.index} == {(loss, metric) for loss in rows for metric in ("mAUROC", "mAP")}
    assert found["class_aware", "mAUROC"] == 0.874
    assert published["source"].notna().all()
    assert {*published["challenge"]} == {"nih14"}


def test_parts_of_the_class_aware_loss_are_left_out_one_at_a_time():
    base = load_recipe("class_aware_swin_base")
    options = {
        variant.name: variant.recipe(base).loss.options
        for variant in PAPERS["class-aware"].variants("multi_label")
    }
    full = options["class_aware"]
    assert full == base.loss.options
    assert options["class_aware-no-decoupling"] == {**full, "decoupled": False}
    assert options["class_aware-no-margin"] == {**full, "margin": 0}


def test_bwcce_weights_a_class_by_the_share_of_the_other_classes():
    (bwcce,) = PAPERS["lmf"].variants("single_label", ["bwcce"])
    config = bwcce.recipe(load_recipe("lmf_resnet50")).loss
    loss = create_loss(config.name, **COUNTS, **config.options)
    assert loss.class_weight.tolist() == pytest.approx([0.4 * 1.5, 0.7 * 1.5, 0.9 * 1.5])


def test_other_losses_can_be_chosen_and_an_unknown_one_is_an_error_with_the_names():
    chosen = PAPERS["lmf"].variants("single_label", ["lmf", "bwcce", "ral"])
    assert [variant.name for variant in chosen] == ["lmf", "bwcce", "ral"]
    with pytest.raises(UserError, match=r"--losses lfm: the losses are ce, .*bwcce"):
        PAPERS["lmf"].variants("single_label", ["lfm"])
