import pytest
import torch

from cxrlt.experiments.lists.losses import DEFAULT_LOSSES, ablation_variants, loss_variants, make_loss_variant
from cxrlt.experiments.variants import ExperimentVariant
from cxrlt.losses import create_loss, loss_names
from cxrlt.recipe import Recipe

ABLATIONS = ("class_aware", "ral", "ral_sensitivity")
Z = torch.linspace(-6, 6, 25, dtype=torch.float64)[:, None].expand(-1, 2).contiguous()


def config_of(variant: ExperimentVariant):
    return variant.recipe(Recipe()).loss


def create_fold_loss(variant: ExperimentVariant):
    cfg = config_of(variant)
    return create_loss(
        cfg.name, classes=["a", "b"], class_counts={"a": 30, "b": 3}, n_samples=300, **cfg.options
    )


def curves(variant: ExperimentVariant) -> torch.Tensor:
    loss = create_fold_loss(variant)
    return torch.stack([loss.positive(Z), loss.negative(Z)])


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_row_of_an_ablation_is_another_loss(ablation):
    variants = ablation_variants(ablation)
    assert len({variant.name for variant in variants}) == len(variants)
    values = [curves(variant) for variant in variants]
    for place, first in enumerate(values):
        for second in values[place + 1 :]:
            assert not torch.allclose(first, second, rtol=1e-4)


def test_ral_without_hill_and_polynomial_is_the_asymmetric_loss():
    (bare,) = [variant for variant in ablation_variants("ral") if variant.name == "no-hill-no-polynomial"]
    asl = make_loss_variant("asl", "asl", {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05})
    torch.testing.assert_close(curves(bare), curves(asl))


def test_without_margin_every_negative_has_a_loss_and_without_class_awareness_all_classes_are_equal():
    by_name = {variant.name: variant for variant in ablation_variants("class_aware")}
    assert (curves(by_name["full"])[1] == 0).any()
    assert (curves(by_name["no-margin"])[1] > 0).all()
    alike = make_loss_variant(
        "x", "class_aware", {**config_of(by_name["no-class-awareness"]).options, "class_weights": "uniform"}
    )
    torch.testing.assert_close(*curves(alike).unbind(-1))


def test_settings_of_the_sensitivity_experiment_share_the_tuning_of_their_parent():
    variants = ablation_variants("ral_sensitivity")
    assert len(variants) == 14
    assert {variant.tuning_name for variant in variants} == {"with-hill", "no-hill"}
    for variant in variants:
        options = config_of(variant).options
        assert (options.get("hill_lambda", 1.5) is None) == (variant.tuning_name == "no-hill")
    assert {variant.name for variant in variants} >= {"with-hill", "no-hill"}


def test_a_single_label_challenge_takes_losses_of_both_kinds():
    assert [config_of(v).name for v in loss_variants(loss_names(), "single_label")] == loss_names()
    for task, names in DEFAULT_LOSSES.items():
        assert loss_variants(names, task)


def test_only_ldam_gets_a_cosine_head():
    heads = {
        variant.name: variant.recipe(Recipe()).model.head.name
        for variant in loss_variants(loss_names("single_label"), "single_label")
    }
    assert {name for name, head in heads.items() if head == "cosine"} == {"ldam"}
