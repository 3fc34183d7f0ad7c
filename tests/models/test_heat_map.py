import pytest
import torch
from torch import nn

from cxrlt.models.backbone import create_model
from cxrlt.models.heat_map import heat_map
from cxrlt.recipe import ModelConfig

SIZE = 160


def make_model(backbone="resnet10t", **fields):
    torch.manual_seed(0)
    return create_model(ModelConfig(backbone=backbone, pretrained=False, **fields), 3, SIZE).eval()


def make_image(seed=0):
    return torch.randint(0, 256, (1, SIZE, SIZE), generator=torch.manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("head", ["linear", "csra", "ml_decoder"])
@pytest.mark.parametrize("backbone", ["resnet10t", "test_convnext"])
def test_a_map_has_a_value_for_every_place(backbone, head):
    model = make_model(backbone, head={"name": head})
    maps = [heat_map(model, make_image(), class_index) for class_index in range(3)]
    assert all(found.shape == (5, 5) and found.min() >= 0 for found in maps)
    assert max(found.max() for found in maps) == 1


def test_the_map_is_the_feature_map_weighted_by_the_mean_gradient():
    model, image = make_model(), make_image()
    features = model.backbone.forward_features((image[None].float() / 255 - model.mean) / model.std)
    features = features.detach().requires_grad_()
    model.head(features.mean((2, 3))[:, None])[0, 2].backward()
    heat = (features * features.grad.mean((2, 3), keepdim=True)).sum(1)[0].clamp(min=0).detach()
    assert torch.allclose(heat_map(model, image, 2), heat / heat.max(), atol=1e-5)


def test_the_model_is_not_changed():
    model, image = make_model(), make_image()
    before = model.predict({"images": image[None]})
    heat_map(model, image, 0)
    assert torch.equal(model.predict({"images": image[None]}), before)
    assert "forward_features" not in vars(model.backbone)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_class_that_no_place_raises_has_an_empty_map():
    model = make_model()
    features = model.backbone.forward_features(torch.rand(1, 1, SIZE, SIZE))
    with torch.no_grad():
        model.head.weight[0] = -torch.ones_like(model.head.weight[0])
    assert (features >= 0).all(), "the last layer of this backbone is a ReLU"
    assert heat_map(model, make_image(), 0).max() == 0


def test_a_backbone_whose_head_reads_a_class_token_has_no_map():
    assert heat_map(make_model("test_vit"), make_image(), 0) is None


def test_no_map_without_a_square_of_features():
    class Line(nn.Module):
        num_prefix_tokens = 0

        def forward_features(self, images):
            return images.flatten(1)[:, :6].reshape(1, 3, 2)

        def forward(self, images):
            return self.forward_features(images).mean(1)

    model = make_model()
    model.backbone, model.head = Line(), nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    assert heat_map(model, make_image(), 0) is None
