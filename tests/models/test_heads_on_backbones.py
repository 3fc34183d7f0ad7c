"""Every head, with and without fusion, on every kind of backbone."""

from itertools import product

import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.recipe import ModelConfig
from sampled_cases import sample_cases

pytestmark = pytest.mark.slow

N_CLASSES = 4
BACKBONES = ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_mambaout"]
DECODER = {"head": {"name": "ml_decoder", "dim": 32, "n_heads": 4}}
FUSION = {"fusion": {"max_images": 3, "depth": 1, "n_heads": 2, "dim": 16}}
HEADS = {
    "linear": {},
    "average": {"pool": "average"},
    "gem": {"pool": "gem"},
    "attention": {"pool": "attention"},
    "cosine": {"head": {"name": "cosine"}, "pool": "gem"},
    "csra": {"head": {"name": "csra"}},
    "ml_decoder": DECODER,
    "coarse": DECODER | {"grid": 2},
    "fusion": FUSION,
    "fusion of ml_decoder": FUSION | DECODER,
}


def model_of(backbone, head, **over):
    torch.manual_seed(0)
    cfg = ModelConfig(backbone=backbone, pretrained=False, **HEADS[head], **over)
    return create_model(cfg, N_CLASSES, 160)


def inputs_of(model, n=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 1, 160, 160), dtype=torch.uint8, generator=generator)
    if model.fusion is None:
        return {"images": images}
    return {
        "images": torch.stack([images, images.flip(-1)], dim=1),
        "views": torch.tensor([[0, 1]] * n),
        "present": torch.tensor([[True, True], [True, False]] + [[True, True]] * (n - 2)),
    }


def features_of(model, inputs):
    """What the light model takes in the place of images."""
    images = inputs["images"]
    features = model.features(images.flatten(0, -4)).unflatten(0, images.shape[:-3])
    return {name: value for name, value in inputs.items() if name != "images"} | {"features": features}


@pytest.mark.parametrize(("backbone", "head"), sample_cases(product(BACKBONES, HEADS), every=3))
def test_a_model_is_its_features_and_what_stands_on_them(backbone, head):
    model = model_of(backbone, head).eval()
    inputs = inputs_of(model)
    light = model.without_backbone()
    model.logit_scale.fill_(3.0)
    with torch.no_grad():
        whole, split = model.predict(inputs), light.predict(features_of(model, inputs))
        assert torch.equal(whole, 3 * model(inputs))
    assert whole.shape == (3, N_CLASSES)
    assert torch.allclose(whole, split, atol=1e-5)
    assert whole.std(dim=0).min() > 0
    assert {key.split(".")[0] for key in light.state_dict()} <= {"head", "fusion", "logit_scale"}
    assert model.state_dict().keys() - light.state_dict().keys() == {
        key for key in model.state_dict() if key.startswith("backbone.")
    }


@pytest.mark.parametrize(("backbone", "head"), sample_cases(product(BACKBONES, HEADS), every=3, first=1))
def test_gradients_reach_every_parameter(backbone, head):
    model = model_of(backbone, head).train()
    model(inputs_of(model)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert all(p.grad.any() for name, p in model.named_parameters() if name.startswith("head."))


@pytest.mark.parametrize("head", HEADS)
def test_a_row_does_not_depend_on_the_other_rows(head):
    model = model_of("test_convnext", head).eval()
    inputs = inputs_of(model, 4)
    with torch.no_grad():
        whole = model(inputs)
        alone = torch.cat([model({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(4)])
        turned = model({k: v.flip(0) for k, v in inputs.items()}).flip(0)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.allclose(whole, turned, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_weights_come_back_as_they_were(head):
    model, other = model_of("test_vit", head).eval(), model_of("test_vit", head).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01 * torch.randn_like(p)
    other.load_state_dict(model.state_dict())
    inputs = inputs_of(model)
    with torch.no_grad():
        assert torch.equal(model(inputs), other(inputs))


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_finite_and_close_under_bfloat16(head):
    model = model_of("test_convnext", head).eval()
    inputs = inputs_of(model)
    with torch.no_grad():
        exact = model.predict(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            low = model.predict(inputs)
    assert low.dtype == torch.float32
    assert torch.allclose(low, exact, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("head", ["csra", "ml_decoder", "fusion"])
def test_a_model_can_be_traced_by_the_compiler(head):
    torch.compiler.reset()
    model = model_of("test_convnext", head).eval()
    inputs = inputs_of(model)
    with torch.no_grad():
        expected = model(inputs)
        model.compile(backend="eager", fullgraph=model.fusion is None)  # which images are there is data
        assert torch.allclose(model(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "cosine", "csra", "ml_decoder"])
def test_dropout_acts_in_training_alone(head):
    model = model_of("test_resnet", head, drop_rate=0.5)
    features = features_of(model.eval(), inputs_of(model))
    light = model.without_backbone()
    with torch.no_grad():
        assert torch.equal(light(features), light(features))
        light.train()
        assert not torch.equal(light(features), light(features))


def test_the_light_model_shares_its_weights_with_the_whole_one():
    model = model_of("test_vit", "fusion of ml_decoder")
    for name, p in model.without_backbone().named_parameters():
        assert p is model.get_parameter(name)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("swin_tiny_patch4_window7_224", 224),
        ("test_maxvit", 160),
        ("test_convnext2", 160),
        ("cs3darknet_s", 64),
    ],
)
def test_backbones_of_the_recipes_families_take_a_head_of_their_map(backbone, size):
    cfg = ModelConfig(backbone=backbone, pretrained=False, **DECODER)
    model = create_model(cfg, N_CLASSES, size).eval()
    with torch.no_grad():
        features = model.features(torch.zeros(1, 1, size, size, dtype=torch.uint8))
    assert features.shape == (1, (size // 32) ** 2, model.backbone.num_features)


@pytest.mark.parametrize(
    ("backbone", "over", "reason"),
    [
        (
            "efficientvit_b0",
            {"head": {"name": "csra"}},
            "model.head csra with model.pool backbone: Cannot disable pooling",
        ),
        ("deit_tiny_distilled_patch16_224", {"pool": "gem"}, "model.head linear with model.pool gem"),
        ("efficientvit_b0", FUSION, "no feature map for model.fusion"),
    ],
)
def test_a_backbone_without_a_feature_map_is_refused(backbone, over, reason):
    with pytest.raises(UserError, match=reason):
        create_model(ModelConfig(backbone=backbone, pretrained=False, **over), 3, 224)


def test_a_grid_without_a_feature_map_to_average_is_refused():
    with pytest.raises(UserError, match=r"model\.grid needs a feature map: use another model\.pool"):
        create_model(ModelConfig(backbone="test_vit", pretrained=False, grid=2), 3, 160)
