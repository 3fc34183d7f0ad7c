import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from foreign_checkpoints import backbone, dinov2_original, distilled, headless, noise, tagged, under
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cxrlt.errors import UserError
from cxrlt.models.checkpoints import convert_checkpoint, read_checkpoint
from user_errors import raises_user_error

REAL = (
    Path(os.environ.get("CXRLT_TEST_DATA", "/nonexistent")) / "weights" / "tf_efficientnet_lite0.safetensors"
)


def convert(content, model):
    return convert_checkpoint(content, model, "weights.pth")


def assert_whole(converted, expected):
    assert converted.state.keys() == expected.keys()
    assert all(torch.equal(converted.state[name], value) for name, value in expected.items())


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("new", [True, False])
def test_numpy_numbers_and_arrays_beside_the_tensors_are_no_obstacle(tmp_path, new):
    beside = {
        "best": np.float64(0.5),
        "n": np.int32(3),
        "curve": np.arange(6.0).reshape(2, 3),
        "ok": np.True_,
    }
    state = tagged(backbone("resnet"))
    path = saved({"model": state, **beside}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    assert_whole(convert(read_checkpoint(path), backbone("resnet")), headless(state))


def test_files_that_were_saved_with_numpy_1_are_read(tmp_path):
    content = {"model": tagged(backbone("vit")), "best": np.float64(0.5), "curve": np.arange(3.0)}
    path = saved(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert_whole(convert(read_checkpoint(path), backbone("vit")), headless(content["model"]))


def test_safetensors_are_known_by_their_content(tmp_path):
    state = tagged(backbone("vit"))
    save_file(state, tmp_path / "weights.bin")
    assert_whole(convert(read_checkpoint(tmp_path / "weights.bin"), backbone("vit")), headless(state))


@pytest.mark.parametrize(
    ("content", "objects"),
    [
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {"weight": torch.zeros(2)}, "path": Path("a")}, "pathlib.PosixPath"),
    ],
)
def test_python_objects_are_named_and_never_created(tmp_path, content, objects):
    path = saved(content, tmp_path / "a.pth")
    with raises_user_error(path, "read safely", objects, "docs/pretrained.md", "model.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02", b"12345678{"])
def test_a_damaged_file_is_a_sentence(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with raises_user_error(tmp_path / "a.pth", "no weights that can be read safely"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_without_tensors_says_what_it_has():
    with raises_user_error("weights.pth", "no dict of tensors", "epoch", "optimizer"):
        convert({"epoch": 3, "optimizer": {"state": {0: {"step": noise(1)}}}}, backbone("vit"))


def test_averaged_weights_are_preferred_and_said():
    state = headless(tagged(backbone("vit")))
    converted = convert(distilled("backbone.", state), backbone("vit"))
    assert_whole(converted, state)
    assert converted.notes[0] == "the tensors of teacher.backbone are used (averaged weights are preferred)"
    assert converted.notes[-1].startswith("not used: ")
    for wrapper in ("model_ema", "ema", "state_dict_ema", "target_encoder"):
        other = {name: value + 1 for name, value in state.items()}
        assert_whole(convert({"model": other, wrapper: state, "zoo": other}, backbone("vit")), state)


def test_a_teacher_that_is_not_whole_leaves_the_student():
    state = headless(tagged(backbone("vit")))
    teacher = {name: value + 1 for name, value in state.items() if "norm" not in name}
    assert_whole(convert({"teacher": teacher, "student": state}, backbone("vit")), state)


def test_a_stem_of_three_channels_becomes_their_sum_and_one_channel_a_third_each():
    grey, colour = backbone("resnet", in_chans=1), backbone("resnet")
    file = tagged(colour)
    converted = convert(file, grey)
    assert torch.equal(converted.state["conv1.weight"], file["conv1.weight"].sum(dim=1, keepdim=True))
    assert "stem: the sum over 3 channels" in converted.notes
    converted = convert(tagged(grey), colour)
    third = tagged(grey)["conv1.weight"] / 3
    assert torch.equal(converted.state["conv1.weight"], torch.cat([third] * 3, dim=1))


def test_a_position_grid_and_a_patch_kernel_are_resampled_and_said():
    small, large = backbone("dinov2"), backbone("dinov2", img_size=56)
    converted = convert(dinov2_original(tagged(small)), large)
    assert converted.state["pos_embed"].shape == (1, 17, 32)
    assert "position grid 2 x 2 resampled to 4 x 4" in converted.notes
    other = backbone("dinov2", img_size=32, patch_size=16)
    assert convert(headless(tagged(small)), other).notes == ("patch kernel 14 x 14 resampled to 16 x 16",)


def test_the_window_of_a_swin_is_resampled_and_said():
    converted = convert(headless(tagged(backbone("swin"))), backbone("swin", window_size=4, img_size=128))
    assert converted.notes == ("position bias table 3 x 3 resampled to 7 x 7",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype):
    state = {
        name: v.to(dtype) if v.is_floating_point() else v for name, v in tagged(backbone("resnet")).items()
    }
    converted = convert(state, backbone("resnet"))
    assert {value.dtype for value in converted.state.values()} == {torch.float32, torch.int64}
    assert converted.notes[0] == f"{str(dtype)[6:]} is converted to float32"


@pytest.mark.slow  # creates models that may fit
def test_a_file_of_another_size_names_both_shapes_and_models_that_fit():
    file = tagged(timm.create_model("vit_small_patch16_224", pretrained=False))
    with raises_user_error("0 of 150", "cls_token (1, 1, 192), not (1, 1, 384)", "vit_small_patch16_224"):
        convert(file, timm.create_model("vit_tiny_patch16_224", pretrained=False))


def test_what_is_not_used_is_listed_by_group():
    beside = {
        "decoder.weight": noise(2),
        "decoder.bias": noise(2),
        "queue": noise(4),
        "fc.weight": noise(2, 2),
    }
    assert convert(tagged(backbone("vit")) | beside, backbone("vit")).notes == (
        "not used: decoder (2), fc (1), head (2), queue (1)",
    )


@pytest.mark.skipif(not REAL.is_file(), reason="needs weights/ in $CXRLT_TEST_DATA")
def test_a_real_file_arrives_whole():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=3)
    content = read_checkpoint(REAL)
    expected = headless(content)
    assert_whole(convert({"state_dict": under("module.", content)}, model), expected)


NAMES = st.sampled_from(["module", "model", "state_dict", "backbone", "encoder", "net", "visual", "x_y", "0"])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["vit", "resnet", "swin"]),
    wrappers=st.lists(NAMES, max_size=3),
    prefixes=st.lists(NAMES, max_size=3),
    data=st.data(),
)
def test_any_wrapper_and_prefix_is_found_and_a_missing_part_is_refused(name, wrappers, prefixes, data):
    model = backbone(name)
    state = headless(tagged(model))
    required = sorted(key for key in state if not key.endswith("num_batches_tracked"))
    missing = data.draw(st.lists(st.sampled_from(required), max_size=3))
    content = under(
        "".join(f"{each}." for each in prefixes), {k: v for k, v in state.items() if k not in missing}
    )
    content |= {"head.weight": noise(2, 8), "logit_scale": noise(1)[0]}
    for wrapper in wrappers:
        content = {wrapper: content, "epoch": 3, "optimizer": {"state": {}}}
    with tempfile.TemporaryDirectory() as folder:
        content = read_checkpoint(saved(content, Path(folder) / "a.pth"))
    if missing:
        with pytest.raises(UserError, match="does not fit"):
            convert(content, model)
    else:
        assert_whole(convert(content, model), state)
