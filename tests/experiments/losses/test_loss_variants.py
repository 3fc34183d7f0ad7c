import pytest
import torch

from cxrlt.experiments.lists.losses import DEFAULT_LOSSES, ablation_variants, loss_variant, loss_variants
from cxrlt.experiments.variants import ExperimentVariant
from cxrlt.losses import create_loss, loss_names
from cxrlt.recipe import Recipe

ABLATIONS = ("class_aware", "ral", "ral_sensitivity")
Z = torch.linspace(-6, 6, 25, dtype=torch.float64)[:, None].expand(-1, 2).contiguous()


def config_of(variant: ExperimentVariant):
    return variant.recipe(Recipe()).loss


def loss_of(variant: ExperimentVariant):
    cfg = config_of(variant)
    return create_loss(
        cfg.name, classes=["a", "b"], class_counts={"a": 30, "b": 3}, n_samples=300, **cfg.options
    )


def curves(variant: ExperimentVariant) -> torch.Tensor:
    loss = loss_of(variant)
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
    asl = loss_variant("asl", "asl", {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05})
    torch.testing.assert_close(curves(bare), curves(asl))


def test_without_margin_a_negative_is_never_forgiven_and_without_class_awareness_classes_are_alike():
    by_name = {variant.name: variant for variant in ablation_variants("class_aware")}
    assert (curves(by_name["full"])[1] == 0).any()
    assert (curves(by_name["no-margin"])[1] > 0).all()
    alike = loss_variant(
        "x", "class_aware", {**config_of(by_name["no-class-awareness"]).options, "class_weights": "uniform"}
    )
    torch.testing.assert_close(*curves(alike).unbind(-1))


def test_settings_of_the_sensitivity_experiment_share_the_tuning_of_their_parent():
    variants = ablation_variants("ral_sensitivity")
    assert len(variants) == 14
    assert {variant.tuning for variant in variants} == {"with-hill", "no-hill"}
    for variant in variants:
        options = config_of(variant).options
        assert (options.get("hill_lambda", 1.5) is None) == (variant.tuning == "no-hill")
    assert {variant.name for variant in variants} >= {"with-hill", "no-hill"}


def test_a_single_label_challenge_takes_losses_of_both_kinds():
    assert [config_of(v).name for v in loss_variants(loss_names(), "single_label")] == loss_names()
    for task, names in DEFAULT_LOSSES.items():
        assert loss_variants(names, task)


def test_ldam_has_the_head_of_cosines_it_asks_for_and_no_other_loss_has():
    heads = {
        variant.name: variant.recipe(Recipe()).model.head.name
        for variant in loss_variants(loss_names("single_label"), "single_label")
    }
    assert {name for name, head in heads.items() if head == "cosine"} == {"ldam"}
