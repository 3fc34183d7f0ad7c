"""model.options reach timm.create_model, and no option is ignored."""

import pytest
import timm.layers
import torch

from cxrlt.models.backbone import create_model
from cxrlt.models.backbone_options import LOADING_OPTIONS, RECIPE_FIELDS
from cxrlt.recipe import ModelConfig
from user_errors import raises_user_error


def model_of(backbone, size=64, **options):
    with torch.device("meta"):
        return create_model(ModelConfig(backbone=backbone, pretrained=False, options=options), 3, size)


def test_options_change_the_architecture():
    backbone = model_of("test_vit", patch_size=8, mlp_ratio=2.5, mlp_layer="SwiGLUPacked").backbone
    assert backbone.patch_embed.proj.kernel_size == (8, 8)
    block = backbone.blocks[0].mlp
    assert isinstance(block, timm.layers.GluMlp)
    assert block.fc1.out_features == 2.5 * backbone.embed_dim


def test_a_text_that_timm_reads_itself_stays_a_text():
    backbone = model_of("test_vit", act_layer="swish", norm_layer="RmsNorm").backbone
    assert isinstance(backbone.blocks[0].mlp.act, torch.nn.SiLU)
    assert isinstance(backbone.norm, timm.layers.RmsNorm)


def test_the_feature_layout_is_that_of_the_options():
    dims = [model_of("test_vit", embed_dim=dim).layout.dim for dim in (64, 32)]
    assert dims == [64, 32]


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "test_vit",
        "swin_tiny_patch4_window7_224",
        "test_convnext",
        "test_efficientnet",
        "densenet121",
        "eva02_tiny_patch14_224",
        "regnety_002",
        "maxvit_pico_rw_256",
        "poolformer_s12",
        "deit_tiny_distilled_patch16_224",
    ],
)
def test_an_unknown_option_is_refused(backbone):
    with raises_user_error(f"{backbone} has no option zoom"):
        model_of(backbone, 224, zoom=2)


def test_a_similar_option_is_named():
    with raises_user_error("test_vit has no option pach_size", "did you mean patch_size"):
        model_of("test_vit", pach_size=8)


def test_an_option_that_the_name_fixes_is_refused():
    with raises_user_error("stem_size is fixed by the name test_efficientnet", "another backbone"):
        model_of("test_efficientnet", stem_size=16)


@pytest.mark.parametrize(("name", "field"), RECIPE_FIELDS.items())
def test_an_option_that_another_field_sets_names_it(name, field):
    with raises_user_error(name, field):
        model_of("test_vit", **{name: 1})


@pytest.mark.parametrize("name", sorted(LOADING_OPTIONS - RECIPE_FIELDS.keys()))
def test_an_option_of_timms_loader_is_refused(name):
    with raises_user_error(name, "not an option of a backbone"):
        model_of("test_vit", **{name: True})


def test_an_option_that_does_not_fit_the_size_is_named():
    with raises_user_error("cannot take data.size 64 with model.options patch_size 0"):
        model_of("test_vit", patch_size=0)
