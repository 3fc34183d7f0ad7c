"""Every layout of published chest X-ray weights arrives whole in a timm backbone, or is refused."""

import pytest
import timm
import torch
from foreign_checkpoints import (
    LAYOUTS,
    backbone,
    dinov2_original,
    headless,
    hf_dinov2,
    noise,
    sequential,
    tagged,
    under,
)

from cxrlt.errors import UserError
from cxrlt.models.checkpoints import ConvertedCheckpoint, convert_checkpoint, read_checkpoint
from user_errors import raises_user_error


def convert(content: object, model: torch.nn.Module) -> ConvertedCheckpoint:
    return convert_checkpoint(content, model, "weights.pth")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_arrives_in_its_place(layout, tmp_path):
    name, to_file = LAYOUTS[layout]
    model = backbone(name)
    expected = headless(tagged(model))
    torch.save(to_file(tagged(model)), tmp_path / "weights.pth")
    converted = convert(read_checkpoint(tmp_path / "weights.pth"), model)
    assert converted.state.keys() == expected.keys()
    for key, value in expected.items():
        has_counters = layout != "densenet old names"
        value = value if has_counters or not key.endswith("num_batches_tracked") else torch.tensor(0)
        torch.testing.assert_close(converted.state[key], value, msg=key)


def resnet(name, **options):
    return timm.create_model(
        name, pretrained=False, num_classes=2, layers=(1, 2, 1, 1), base_width=8, **options
    )


@pytest.mark.slow  # creates models that may fit
def test_a_deeper_resnet_is_refused_with_the_model_that_fits():
    file = tagged(timm.create_model("resnet101", pretrained=False))
    with raises_user_error("weights.pth", "resnet50", "265", "layer3.6.bn1.bias", "255 in all", "resnet101"):
        convert(file, timm.create_model("resnet50", pretrained=False))


@pytest.mark.slow  # creates models that may fit
def test_squeeze_and_excitation_is_never_left_out():
    with pytest.raises(UserError, match=r"100 of 100 tensors matched; without a place: layer1\.0\.se\.fc1"):
        convert(tagged(resnet("seresnet50")), backbone("resnet"))
    with pytest.raises(UserError, match=r"missing: layer1\.0\.se\.fc1"):
        convert(tagged(backbone("resnet")), resnet("seresnet50"))


@pytest.mark.parametrize("layout", [dinov2_original, hf_dinov2])
def test_rad_dino_is_not_loaded_into_a_vit_without_layer_scale(layout):
    file = layout(tagged(backbone("dinov2")))
    with pytest.raises(UserError, match=r"48 of 48|26 of 26|without a place: blocks\.0\.ls1\.gamma"):
        convert(file, backbone("vit"))


@pytest.mark.parametrize(
    "name", ["norm_pre.weight", "reg_token", "dist_token", "blocks.2.norm1.weight", "blocks.0.head.weight"]
)
def test_a_tensor_that_shows_another_architecture_is_refused(name):
    file = tagged(backbone("vit")) | {name: noise(32)}
    with raises_user_error("weights.pth", name, "vit_base_patch16_224"):
        convert(file, backbone("vit"))


def test_registers_are_not_dropped():
    with raises_user_error("reg_token"):
        convert(dinov2_original(tagged(backbone("reg4"))), backbone("dinov2"))


def test_a_resnet_without_layer4_is_refused():
    file = {k: v for k, v in sequential(tagged(backbone("resnet"))).items() if not k.startswith("7.")}
    with raises_user_error("layer4.0.bn1.bias", "missing"):
        convert({"model": under("module.res_features.", file)}, backbone("resnet"))


def test_blocks_that_are_numbered_from_0_in_every_chunk_are_refused():
    file = {k.replace("blocks.1.", "blocks.1.0."): v for k, v in tagged(backbone("vit")).items()}
    file = {k.replace("blocks.0.", "blocks.0.0.") if "blocks.1" not in k else k: v for k, v in file.items()}
    with raises_user_error("missing", "without a place"):
        convert(file, backbone("vit"))


def test_a_headless_swin_of_our_own_is_not_taken_for_an_old_one():
    model = backbone("swin")
    expected = headless(tagged(model))
    converted = convert(
        under("backbone.", expected) | {"head.weight": noise(2, 8), "logit_scale": noise(1)[0]}, model
    )
    assert all(torch.equal(converted.state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("layer3.0.conv2.weight", lambda value: value[0, 0, 0].fill_(torch.nan), "NaN"),
        ("bn1.running_mean", lambda value: value[:1].fill_(torch.inf), "infinite"),
        ("layer1.0.bn1.running_var", lambda value: value[:1].fill_(-0.1), "negative"),
        ("layer1.0.bn1.running_var", lambda value: value.zero_(), "all 0"),
        ("layer2.1.conv1.weight", lambda value: value.zero_(), "0 everywhere"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(name, spoil, sentence):
    file = tagged(backbone("resnet"))
    spoil(file[name])
    with raises_user_error("weights.pth", name, sentence):
        convert(file, backbone("resnet"))
