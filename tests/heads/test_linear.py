import pytest
import timm
import torch
import torch.nn.functional as F

from cxrlt.heads.linear import CosineHead
from cxrlt.heads.pools import AveragePool
from cxrlt.models.backbone import create_model
from cxrlt.recipe import ModelConfig
from user_errors import raises_user_error

BACKBONES = ["test_convnext", "test_resnet", "test_vit", "test_efficientnet"]


def cosine_model(backbone):
    cfg = ModelConfig(backbone=backbone, pretrained=False, head={"name": "cosine"})
    return create_model(cfg, 4, 160)


def images(n=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 160, 160), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_logits_of_a_cosine_head_are_the_cosines_of_features_and_class_weights(backbone):
    model = cosine_model(backbone).eval()
    features = []
    model.classifier.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with torch.no_grad():
        logits = model({"images": images()})
    expected = F.cosine_similarity(features[0], model.classifier.weight[None], dim=-1)
    assert logits.shape == (5, 4)
    assert torch.allclose(logits, expected, atol=1e-6)


def test_only_the_directions_of_features_and_weights_matter():
    head, features = CosineHead(8, 3, AveragePool()), torch.randn(5, 1, 8)
    before = head(features)
    with torch.no_grad():
        head.weight *= 7
    assert torch.allclose(head(features * 100), before, atol=1e-6)


def test_a_cosine_head_has_no_bias_and_is_trained():
    model = cosine_model("test_convnext")
    assert model.classifier.bias is None
    assert "bias" not in dict(model.classifier.named_parameters())
    model({"images": images()}).square().sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_features_of_length_zero_give_finite_gradients():
    features = torch.zeros(2, 1, 8, requires_grad=True)
    CosineHead(8, 3, AveragePool())(features).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_cosines_keep_their_precision_under_autocast():
    head, features = CosineHead(64, 5, AveragePool()), torch.randn(9, 1, 64)
    with torch.autocast("cpu", torch.bfloat16):
        low = head(features)
    assert torch.equal(low, head(features))


def test_a_head_of_two_classifiers_is_refused_with_a_sentence():
    with raises_user_error("model.head cosine", "deit_tiny_distilled_patch16_224", "tuple", "Linear"):
        cosine_model("deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize("backbone", [*BACKBONES, "dla34"])
def test_a_linear_head_on_timms_pool_is_timms_own_classifier(backbone):
    torch.manual_seed(0)
    whole = timm.create_model(backbone, pretrained=False, in_chans=1, num_classes=4).eval()
    torch.manual_seed(0)
    model = create_model(ModelConfig(backbone=backbone, pretrained=False, normalise=False), 4, 160).eval()
    with torch.no_grad():
        assert torch.allclose(model({"images": images()}), whole(images() / 255), atol=1e-5)
