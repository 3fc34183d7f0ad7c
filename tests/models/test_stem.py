"""The stem for grey images equals the pretrained stem on grey copied to three normalised channels."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv

from cxrlt.models.backbone import create_model
from cxrlt.models.pretrained import normalisation
from cxrlt.recipe import ModelConfig

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module", params=["test_efficientnet", "test_vit", "test_resnet"])
def source(request, tmp_path_factory):
    """A timm model of three channels and the file with its weights."""
    torch.manual_seed(0)
    backbone = timm.create_model(request.param, num_classes=0, **options(request.param)).eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(backbone.state_dict(), path)
    return backbone, path


def options(name):
    return {"img_size": 64} if name == "test_vit" else {}


def config(source, **over):
    backbone, path = source
    return ModelConfig(backbone=backbone.pretrained_cfg["architecture"], pretrained=path, **over)


def grey_images():
    """Two images without a border of one value, so that the stem's padding counts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=generator)


def stem_of(backbone):
    return next(layer for layer in backbone.modules() if isinstance(layer, torch.nn.Conv2d))


def outputs(backbone, images, run):
    """The outputs of the stem's convolution and of what `run` returns."""
    seen = []
    hook = stem_of(backbone).register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.no_grad():
        whole = run(images)
    hook.remove()
    return seen[0], whole


def reference_outputs(source, mean, std):
    backbone, _ = source
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))
    return outputs(backbone, (grey_images().repeat(1, 3, 1, 1) / 255 - mean) / std, backbone)


def border(planes):
    """The first and last rows and columns of (n, c, h, w)."""
    return torch.cat([planes[..., [0, -1], :].flatten(1), planes[..., [0, -1]].flatten(1)], dim=1)


def relative_error(output, expected):
    return float((output - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("over", "mean_and_std", "in_chans"),
    [
        ({"mean": IMAGENET[0], "std": IMAGENET[1]}, IMAGENET, 3),
        ({"mean": 0.5, "std": IMAGENET[1]}, ((0.5,) * 3, IMAGENET[1]), 3),
        ({"mean": IMAGENET[0], "std": 0.25}, (IMAGENET[0], (0.25,) * 3), 3),
        ({"mean": 0.5307, "std": 0.2583}, ((0.5307,) * 3, (0.2583,) * 3), 1),
        ({"normalise": False, "mean": IMAGENET[0]}, ((0.0,) * 3, (1.0,) * 3), 1),
    ],
)
def test_grey_images_give_the_output_of_the_pretrained_network(source, over, mean_and_std, in_chans):
    model = create_model(config(source, **over), 3, 64).eval()
    stem, features = outputs(model.backbone, grey_images(), model.features)
    expected_stem, expected = reference_outputs(source, *mean_and_std)
    assert model.in_chans == stem_of(model.backbone).in_channels == in_chans
    assert relative_error(stem, expected_stem) < 1e-5
    assert relative_error(border(stem), border(expected_stem)) < 1e-5
    assert relative_error(features[:, 0], expected) < 1e-5


def test_a_summed_kernel_with_averaged_mean_and_std_would_not(source):
    mean, std = (sum(values) / 3 for values in IMAGENET)
    kernel = adapt_input_conv(1, stem_of(source[0]).weight.detach())
    expected, _ = reference_outputs(source, *IMAGENET)
    stem = stem_of(source[0])
    fused = torch.nn.Conv2d(1, len(kernel), stem.kernel_size, stem.stride, stem.padding)
    fused.weight.data, fused.bias = kernel, stem.bias
    with torch.no_grad():
        assert relative_error(fused((grey_images() / 255 - mean) / std), expected) > 0.01


def test_random_weights_have_a_stem_of_one_channel():
    model = create_model(ModelConfig(backbone="test_efficientnet", pretrained=False), 3, 64)
    assert model.in_chans == stem_of(model.backbone).in_channels == 1
    assert (model.mean.item(), model.std.item()) == pytest.approx([sum(values) / 3 for values in IMAGENET])


def test_the_stem_does_not_depend_on_whether_the_weights_are_loaded():
    cfg = ModelConfig(backbone="test_efficientnet", pretrained=Path("absent.safetensors"))
    model = create_model(cfg, 3, 64, load_pretrained=False)
    assert model.in_chans == stem_of(model.backbone).in_channels == 3
    assert create_model(cfg, 3, 64, channels=3, load_pretrained=False).in_chans == 3


def test_mean_and_std_are_those_of_the_recipe_else_those_of_timm():
    cfg = ModelConfig(backbone="test_efficientnet", mean=0.5307)
    assert normalisation(cfg) == ((0.5307,) * 3, IMAGENET[1])
    assert normalisation(cfg.model_copy(update={"mean": None, "std": (0.1, 0.2, 0.3)})) == (
        IMAGENET[0],
        (0.1, 0.2, 0.3),
    )


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, ["mean 0.485 0.456 0.406 (that of timm for test_efficientnet)", "set model.mean and model.std"]),
        ({"mean": 0.5}, ["mean 0.5 (recipe)", "std 0.229 0.224 0.225 (that of timm", "set model.mean"]),
        ({"mean": 0.5, "std": 0.25}, ["mean 0.5 (recipe) and std 0.25 (recipe)"]),
        ({"normalise": False}, ["pixels / 255", "model.normalise False"]),
    ],
)
def test_a_file_of_weights_says_how_images_are_normalised(tmp_path, over, words):
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "model.safetensors")
    cfg = ModelConfig(backbone="test_efficientnet", pretrained=tmp_path / "model.safetensors", **over)
    lines = []
    create_model(cfg, 3, 64, log=lines.append)
    assert all(word in lines[-1] for word in words)
    assert ("set model.mean" in lines[-1]) == (words[-1].startswith("set"))
