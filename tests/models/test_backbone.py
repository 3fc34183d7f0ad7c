from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cxrlt.errors import UserError
from cxrlt.losses import RobustAsymmetricLoss
from cxrlt.models.backbone import create_model
from cxrlt.models.hub import FetchedFile
from cxrlt.models.pretrained import weights_licence
from cxrlt.recipe import ModelConfig, load_recipe, recipe_names
from cxrlt.training.optim import create_optimizer
from sampled_cases import sample_cases
from user_errors import raises_user_error

pytestmark = pytest.mark.slow


def tiny(**over):
    return ModelConfig(**{"backbone": "test_convnext", "pretrained": False, **over})


def images(n=4, size=32, channels=1):
    return torch.randint(
        0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("name", sample_cases(recipe_names(), every=3))
def test_the_first_training_step_of_every_recipe_moves_its_weights(name):
    recipe = load_recipe(name)
    model = create_model(recipe.model, 5, 32, load_pretrained=False).train()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = create_optimizer(model, recipe.optim)
    inputs = {"images": images(2)}
    if recipe.uses_fusion:
        shown = torch.ones(2, 1, dtype=torch.bool)
        inputs = {"images": images(2)[:, None], "views": shown.long(), "present": shown}
    loss = RobustAsymmetricLoss()(model(inputs), torch.eye(5)[:2])
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert moved > len(before) / 2


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit", "test_efficientnet"])
def test_a_prediction_does_not_depend_on_the_other_rows(backbone):
    model = create_model(tiny(backbone=backbone), 3, 160).eval()
    batch = images(5, 160)
    with torch.no_grad():
        whole = model({"images": batch})
        alone = torch.cat([model({"images": row[None]}) for row in batch])
        turned = model({"images": batch.flip(0)}).flip(0)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.allclose(whole, turned, atol=1e-5)


def test_random_weights_take_one_channel_normalised_with_the_average_of_timms_statistics():
    model = create_model(tiny(), 3, 32)
    assert model.backbone.stem[0].in_channels == 1
    cfg = timm.get_pretrained_cfg("test_convnext")
    assert model.mean.item() == pytest.approx(sum(cfg.mean) / 3)
    assert model.std.item() == pytest.approx(sum(cfg.std) / 3)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.features(torch.full((1, 1, 32, 32), 255, dtype=torch.uint8))
    assert seen[0].mean().item() == pytest.approx((1 - model.mean.item()) / model.std.item())


def test_colour_is_normalised_channel_by_channel():
    model = create_model(tiny(), 3, 32, channels=3)
    assert model.backbone.stem[0].in_channels == 3
    cfg = timm.get_pretrained_cfg("test_convnext")
    assert torch.equal(model.mean.flatten(), torch.tensor(cfg.mean))
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = images(2, channels=3)
    model.features(batch)
    expected = (batch / 255 - torch.tensor(cfg.mean)[:, None, None]) / torch.tensor(cfg.std)[:, None, None]
    assert torch.allclose(seen[0], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_normalisation_the_backbone_sees_grey_values_over_255(channels):
    model = create_model(tiny(normalise=False), 3, 32, channels)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = images(2, channels=channels)
    model.features(batch)
    assert torch.equal(seen[0], batch / 255)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_local_file_of_weights_is_used(tmp_path, kind):
    source = timm.create_model("test_convnext", pretrained=False, num_classes=1000)
    path = tmp_path / f"weights.{kind}"
    save_file(source.state_dict(), path) if kind == "safetensors" else torch.save(source.state_dict(), path)
    model = create_model(tiny(pretrained=path), 3, 32)
    name = "stages.1.blocks.0.conv_dw.weight"
    assert torch.equal(model.backbone.state_dict()[name], source.state_dict()[name])
    grey = source.state_dict()["stem.0.weight"].sum(dim=1, keepdim=True)
    assert torch.allclose(model.backbone.state_dict()["stem.0.weight"], grey)


def test_the_classifier_of_a_file_is_not_used(tmp_path):
    source = timm.create_model("test_convnext", num_classes=3)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    head = create_model(tiny(pretrained=tmp_path / "model.safetensors"), 3, 32).head
    assert head.weight.shape == source.head.fc.weight.shape
    assert not torch.equal(head.weight, source.head.fc.weight)


def test_a_file_of_the_hub_is_used(tmp_path, monkeypatch):
    address = "hf-hub:org/repo/model.safetensors@main"
    source = timm.create_model("test_convnext")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    files = {address: FetchedFile(tmp_path / "model.safetensors", "0" * 40)}
    monkeypatch.setattr("cxrlt.models.hub.fetch", files.__getitem__)
    model = create_model(tiny(pretrained=address), 3, 32)
    name = "stages.1.blocks.0.conv_dw.weight"
    assert torch.equal(model.backbone.state_dict()[name], source.state_dict()[name])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    with pytest.raises(UserError, match=r"other\.safetensors does not fit test_convnext \(0 of 99"):
        create_model(tiny(pretrained=path), 3, 32)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="no weights that can be read safely"):
        create_model(tiny(pretrained=tmp_path / "bad.pth"), 3, 32)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_says_which_one_to_get(tmp_path):
    with raises_user_error(
        tmp_path / "absent.safetensors", "timm/test_convnext.r160_in1k", "model.safetensors"
    ):
        create_model(tiny(pretrained=tmp_path / "absent.safetensors"), 3, 32)


def test_without_network_the_sentence_names_the_file_to_get(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"could not be loaded.*model\.safetensors.*--model\.pretrained"):
        create_model(tiny(pretrained=True, backbone="test_convnext2.r160_in1k"), 3, 32)


def test_an_unknown_backbone_names_similar_ones():
    with pytest.raises(UserError, match=r"not a timm model.*convnext_small"):
        create_model(tiny(backbone="convnext_smal"), 3, 32)


def test_an_unknown_name_of_weights_names_similar_ones():
    with pytest.raises(
        UserError, match=r"'resnet50\.a1_in1\w'.*no weights of this name \(did you mean resnet50\.a1"
    ):
        create_model(tiny(backbone="resnet50.a1_in1x"), 3, 32)


def test_a_size_the_backbone_cannot_take_is_a_sentence():
    with pytest.raises(UserError, match=r"cannot take data\.size 80"):
        create_model(tiny(backbone="maxvit_tiny_tf_512"), 3, 80)


def test_stochastic_depth_where_there_is_none_is_a_sentence():
    assert create_model(tiny(backbone="densenet121"), 3, 32)
    with raises_user_error("densenet121", "model.drop_path", "0"):
        create_model(tiny(backbone="densenet121", drop_path=0.1), 3, 32)


def test_licences_of_weights_are_shown():
    assert weights_licence(load_recipe("ral_convnextv2_base").model) == "cc-by-nc-4.0"
    assert "random" in weights_licence(tiny())
