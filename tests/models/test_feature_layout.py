"""One vector per place of the image, from whatever a backbone returns."""

import pytest
import torch
from torch import nn

from cxrlt.models.backbone import create_model
from cxrlt.models.feature_layout import FeatureLayout, infer_layout
from cxrlt.recipe import ModelConfig


class Registers(nn.Module):
    num_prefix_tokens = 5


def model_of(backbone, **over):
    torch.manual_seed(0)
    return create_model(
        ModelConfig(backbone=backbone, pretrained=False, head={"name": "csra"}, **over), 3, 160
    ).eval()


def images(n=2):
    return torch.randint(0, 256, (n, 1, 160, 160), dtype=torch.uint8)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_coatnet", "test_efficientnet"])
def test_features_are_the_backbones_map_row_by_row(backbone):
    model, batch = model_of(backbone), images()
    with torch.no_grad():
        features = model.features(batch)
        plane = model.backbone.forward_intermediates(
            (batch / 255 - model.mean) / model.std, indices=1, norm=True, intermediates_only=True
        )[0]
        if backbone == "test_efficientnet":  # timm's last stage comes before its last convolution
            plane = model.backbone.forward_features((batch / 255 - model.mean) / model.std)
    height, width = plane.shape[-2:]
    assert features.shape == (2, height * width, plane.shape[1])
    for row in range(height):
        for column in range(width):
            assert torch.allclose(features[:, row * width + column], plane[:, :, row, column], atol=1e-5)


def test_a_map_with_its_channels_last_is_read_row_by_row():
    model, batch = model_of("test_mambaout"), images()
    with torch.no_grad():
        plane = model.backbone((batch / 255 - model.mean) / model.std)
        assert torch.equal(model.features(batch), plane.flatten(1, 2))


def test_tokens_that_are_no_places_are_left_out():
    layout = infer_layout(Registers(), torch.Size([1, 5 + 9, 8]), None)
    output = torch.randn(2, 14, 8)
    assert layout.dim == 8
    assert torch.equal(layout.features(output), output[:, 5:])


@pytest.mark.parametrize("shape", [(1, 5 + 8, 8), (1, 5, 8), (1, 8)])
def test_an_output_that_is_no_square_of_places_is_refused(shape):
    with pytest.raises(ValueError, match="it"):
        infer_layout(Registers(), torch.Size(shape), None)


@pytest.mark.parametrize("kind", ["nchw", "nhwc", "tokens"])
@pytest.mark.parametrize(("side", "grid"), [(4, 2), (5, 2), (7, 3)])
def test_a_grid_averages_the_map_down(kind, side, grid):
    plane = torch.randn(2, side, side, 8)
    output = {"nchw": plane.permute(0, 3, 1, 2), "nhwc": plane, "tokens": plane.flatten(1, 2)}[kind]
    features = FeatureLayout(kind, 8, grid=grid).features(output)
    assert features.shape == (2, grid**2, 8)
    for row in range(grid):
        for column in range(grid):
            rows, columns = (slice(at * side // grid, -(-(at + 1) * side // grid)) for at in (row, column))
            mean = plane[:, rows, columns].mean(dim=(1, 2))
            assert torch.allclose(features[:, row * grid + column], mean, atol=1e-6)


def test_a_grid_finer_than_the_map_leaves_it_as_it_is():
    plane = torch.randn(2, 8, 3, 3)
    with_grid, without = FeatureLayout("nchw", 8, grid=4), FeatureLayout("nchw", 8)
    assert torch.equal(with_grid.features(plane), without.features(plane))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_the_grid_of_a_recipe_is_the_number_of_places(backbone):
    assert model_of(backbone, grid=3).features(images()).shape[1] == 9
