from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.models.transfer import load_weights
from cxrlt.recipe import ModelConfig
from user_errors import raises_user_error

FUSION = {"fusion": {"max_images": 2, "depth": 1, "n_heads": 2, "dim": 16}}


def model_of(seed, n_classes=3, channels=1, **over):
    torch.manual_seed(seed)
    cfg = ModelConfig(**{"backbone": "test_vit", "pretrained": False, **over})
    return create_model(cfg, n_classes, 160, channels)


def load(model, source, same_classes=True):
    return load_weights(model, source.state_dict(), same_classes=same_classes, source="other fold 0")


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("over", [{}, {"head": {"name": "csra"}}, {"pool": "gem"}, FUSION])
def test_a_run_of_the_same_kind_gives_all_its_weights(over):
    model, source = model_of(0, **over), model_of(1, **over)
    source.logit_scale.fill_(30)
    assert load(model, source) == []
    assert equal(model.backbone, source.backbone)
    assert equal(model.head, source.head)
    assert model.logit_scale == 1  # that of its own loss


@pytest.mark.parametrize(("n_classes", "same_classes"), [(3, False), (4, True)])
def test_other_classes_keep_a_new_head(n_classes, same_classes):
    model, source, fresh = (
        model_of(seed, n, **FUSION) for seed, n in ((0, n_classes), (1, 3), (0, n_classes))
    )
    assert load(model, source, same_classes) == ["head"]
    assert equal(model.backbone, source.backbone)
    assert equal(model.fusion, source.fusion)
    assert equal(model.head, fresh.head)


def test_a_head_of_another_kind_stays_new():
    kinds = [
        {"head": {"name": "linear"}},
        {"head": {"name": "csra"}},
        {"head": {"name": "cosine"}},
        {"pool": "gem"},
        {"head": {"name": "ml_decoder"}},
    ]
    for there, here in zip(kinds, kinds[1:] + kinds[:1], strict=True):
        model, fresh = model_of(0, **here), model_of(0, **here)
        assert load(model, model_of(1, **there)) == ["head"]
        assert equal(model.head, fresh.head)


def test_a_fusion_starts_from_a_run_of_single_images():
    model, source = model_of(0, **FUSION), model_of(1)
    assert load(model, source) == ["fusion", "head"]
    assert equal(model.backbone, source.backbone)


@pytest.mark.parametrize("over", [{"backbone": "test_resnet"}, {"backbone": "test_vit2"}, {"channels": 3}])
def test_another_backbone_is_refused_with_the_names_that_differ(over):
    model = model_of(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"^other fold 0: \d+ tensors .* backbone \(\w+"):
        load(model, model_of(1, **over))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_stem_of_other_channels_says_what_makes_them_differ():
    pretrained = {"backbone": "test_efficientnet", "pretrained": Path("absent.safetensors")}
    cfgs = ModelConfig(**pretrained), ModelConfig(**pretrained | {"pretrained": False})
    three, one = (create_model(cfg, 3, 64, load_pretrained=False) for cfg in cfgs)
    for model, source in ((three, one), (one, three)):
        with raises_user_error("1 tensors", "conv_stem", "three channels", "model.pretrained", "model.mean"):
            load(model, source)
    with raises_user_error("Use the same model.backbone"):
        load(one, model_of(1))


def test_a_deeper_backbone_of_the_same_shapes_is_refused():
    model = model_of(0)
    tensors = model.state_dict() | {"backbone.blocks.99.norm1.weight": torch.zeros(64)}
    with pytest.raises(UserError, match=r"1 tensors.*blocks\.99"):
        load_weights(model, tensors, same_classes=True, source="deep")


def test_a_light_model_takes_fusion_and_head_alone():
    source = model_of(1, **FUSION)
    light = model_of(0, **FUSION).without_backbone()
    assert load(light, source) == []
    assert equal(light.head, source.head)
    assert equal(light.fusion, source.fusion)


@pytest.mark.parametrize("over", [{}, FUSION, {"head": {"name": "csra"}}])
def test_the_file_of_a_run_serves_as_pretrained_weights(tmp_path, over):
    source = model_of(1, **over)
    save_file(
        {key: value.contiguous() for key, value in source.state_dict().items()}, tmp_path / "run.safetensors"
    )
    model = model_of(0, n_classes=5, pretrained=tmp_path / "run.safetensors", head={"name": "ml_decoder"})
    assert equal(model.backbone, source.backbone)


@pytest.mark.parametrize(
    ("backbone", "resized"), [("test_vit", ["backbone.pos_embed"]), ("test_convnext", [])]
)
def test_a_run_at_another_image_size_gives_all_its_weights(backbone, resized):
    torch.manual_seed(0)
    cfg = ModelConfig(backbone=backbone, pretrained=False)
    small, large = (create_model(cfg, 3, size) for size in (64, 96))
    assert load_weights(large, small.state_dict(), same_classes=True, source="csv:run") == []
    before, after = small.state_dict(), large.state_dict()
    assert [key for key in after if after[key].shape != before[key].shape] == resized
    assert all(torch.equal(after[key], before[key]) for key in after if key not in resized)
    for key in resized:
        corner = before[key][0, -1], after[key][0, -1]  # the last patch lies in the same corner
        assert torch.cosine_similarity(*corner, dim=0) > 0.7
