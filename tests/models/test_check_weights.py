"""`cxrlt weights check`, the rows of weights.yaml as models, and the examples of docs/pretrained.md."""

import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torchvision
from torch import nn

from cxrlt import cli
from cxrlt.models.backbone import create_model
from cxrlt.models.check_weights import check_weights
from cxrlt.recipe import ModelConfig, load_recipe
from cxrlt.recipe.known_weights import read_known_weights
from doc_pages import ROOT, Page

pytestmark = pytest.mark.slow

ROWS = read_known_weights()
PAGE = Page(ROOT / "docs" / "pretrained.md")
REAL = Path(os.environ.get("CXRLT_TEST_DATA", "/nonexistent")) / "weights/tf_efficientnet_lite0.safetensors"


def exit_of(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", *map(str, args)])
    return stop.value.code


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A file with the tensors of timm's resnet18, inside a wrapper and below a prefix."""
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    state = timm.create_model("resnet18").state_dict()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", ROWS)
def test_backbone_and_options_of_every_row_make_a_model(name):
    cfg = ModelConfig.model_validate({"weights": name, "pretrained": "w.pth"})
    with torch.device("meta"):
        model = create_model(cfg, 1, ROWS[name].size, load_pretrained=False)
    assert model.in_chans == (1 if isinstance(cfg.mean, float) else 3)


def test_a_file_that_fits_a_timm_model_says_how_many_tensors_are_filled(resnet, capsys):
    cli.main(["weights", "check", str(resnet), "--like", "resnet18"])
    lines = capsys.readouterr().out.splitlines()
    n_tensors = len(timm.create_model("resnet18", num_classes=0).state_dict())
    assert lines[0] == f"{resnet} fits resnet18: all {n_tensors} tensors of resnet18 are filled."
    assert any("model.module" in line for line in lines[1:])
    assert any("normalised with" in line for line in lines[1:])


def test_a_file_that_does_not_fit_exits_with_code_2(resnet, capsys):
    assert exit_of("check", resnet, "--like", "txv-resnet50-all") == 2
    error = capsys.readouterr().err
    assert "resnet50" in error
    assert "resnet18" in error
    assert error.count("\n") == 1


def test_without_a_name_the_file_is_described_and_models_that_fit_are_named(resnet, capsys):
    cli.main(["weights", "check", str(resnet)])
    out = capsys.readouterr().out
    assert "122 tensors" in out
    assert "below model.module: conv1 (1)" in out
    assert "resnet18" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["check"], "weights check FILE --like NAME"),
        (["list", "w.pth"], "weights check FILE --like NAME"),
        (["list", "--like", "rad-dino"], "weights check FILE --like NAME"),
        (["check", "absent.pth"], "absent.pth does not exist"),
        (["check", "absent.pth", "--like", "rad-dino"], "absent.pth does not exist"),
        (["check", "w.pth", "--like", "rad-dno"], "(did you mean rad-dino?)"),
        (["check", "w.pth", "--like", "resnet_50"], "(did you mean resnet50"),
        (["check", "w.pth", "--like", "resnet50.a1_in1"], "(did you mean resnet50.a1_in1k?)"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(args, sentence, capsys):
    assert exit_of(*args) == 2
    assert sentence in capsys.readouterr().err


def test_the_list_needs_no_torch(capsys):
    cli.main(["weights"])
    assert "eva-x-base" in capsys.readouterr().out


@pytest.mark.skipif(not REAL.is_file(), reason="needs the real weights in $CXRLT_TEST_DATA")
def test_the_opened_file_fits_its_row_and_also_the_name_with_another_padding():
    for name in ("efficientnet-lite0-imagenet", "efficientnet_lite0"):
        assert check_weights(REAL, name).startswith(f"{REAL} fits {name}: all 294 tensors of ")
    assert "mean 0.5 (recipe)" in check_weights(REAL, "efficientnet-lite0-imagenet")


class FakeDenseNet(nn.Module):
    """As that of torchxrayvision: torchvision's names, one channel, 18 classes and a buffer beside them."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        assert weights == "densenet121-res224-all"
        densenet = torchvision.models.densenet121(num_classes=18)
        self.features, self.classifier = densenet.features, densenet.classifier
        self.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self.register_buffer("op_threshs", torch.zeros(18))


def test_the_conversion_of_torchxrayvision_on_the_page_gives_a_file_that_fits(tmp_path, monkeypatch):
    package, models = ModuleType("torchxrayvision"), ModuleType("torchxrayvision.models")
    models.DenseNet = FakeDenseNet
    monkeypatch.setitem(sys.modules, "torchxrayvision", package)
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", models)
    monkeypatch.chdir(tmp_path)
    (code,) = PAGE.blocks("python")
    exec(compile(code, "docs/pretrained.md", "exec"), {})
    text = check_weights(Path("txv-densenet121-all.safetensors"), "txv-densenet121-all")
    assert "fits txv-densenet121-all: all 725 tensors of densenet121 are filled" in text


@pytest.mark.parametrize("name", ["frozen_rad_dino", "tuned_eva_x"])
def test_the_recipes_of_the_page_make_models_at_their_size(name, tmp_path):
    (block,) = [block for block in PAGE.blocks("yaml") if block.startswith(f"# {name}.yaml")]
    (tmp_path / f"{name}.yaml").write_text(block)
    recipe = load_recipe(str(tmp_path / f"{name}.yaml"))
    with torch.device("meta"):
        model = create_model(recipe.model, 3, recipe.data.size, load_pretrained=False)
    assert hasattr(model.backbone, "group_matcher")  # for optim.layer_decay
    assert re.fullmatch(r"[\w.-]+\.(safetensors|pt)", str(recipe.model.pretrained))
