"""A study's logits depend on its own images, and on nothing else."""

import pytest
import torch

from cxrlt.challenges.base import VIEWS
from cxrlt.models.backbone import create_model
from cxrlt.models.fusion import N_VIEWS, StudyEncoder, position_encodings
from cxrlt.recipe import FusionConfig, ModelConfig

HEADS = {
    "linear": {},
    "attention": {"pool": "attention"},
    "gem": {"pool": "gem"},
    "cosine": {"head": {"name": "cosine"}},
    "csra": {"head": {"name": "csra"}},
    "ml_decoder": {"head": {"name": "ml_decoder", "dim": 16, "n_heads": 2}},
}


def model_of(head="linear", backbone="test_convnext"):
    torch.manual_seed(0)
    fusion = {"max_images": 4, "depth": 2, "n_heads": 2, "dim": 16}
    cfg = ModelConfig(backbone=backbone, pretrained=False, fusion=fusion, **HEADS[head])
    model = create_model(cfg, 3, 64)
    torch.nn.init.normal_(model.fusion.views.weight)
    return model.eval()


def studies():
    """Three studies of three, two and one image, 64 px."""
    generator = torch.Generator().manual_seed(1)
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    images = torch.randint(0, 256, (3, 3, 1, 64, 64), dtype=torch.uint8, generator=generator)
    images[~present] = 0
    return {"images": images, "views": torch.tensor([[0, 1, 2], [0, 1, 0], [1, 0, 0]]), "present": present}


def pad(inputs, n):
    """With n more slots that hold no image, but garbage."""
    image = torch.full((3, n, 1, 64, 64), 255, dtype=torch.uint8)
    return {
        "images": torch.cat([inputs["images"], image], dim=1),
        "views": torch.cat([inputs["views"], torch.full((3, n), -1)], dim=1),
        "present": torch.cat([inputs["present"], torch.zeros(3, n, dtype=torch.bool)], dim=1),
    }


def close(a, b):
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_padding_does_not_matter(head):
    model, inputs = model_of(head), studies()
    whole = model(inputs)
    assert close(model(pad(inputs, 2)), whole)
    features = model.features(inputs["images"].flatten(0, 1)).unflatten(0, (3, 3))
    features[~inputs["present"]] = torch.nan
    assert close(model.without_backbone()({**inputs, "features": features}), whole)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_the_order_of_images_and_where_the_gap_is_do_not_matter(head):
    model, inputs = model_of(head), studies()
    for order in ([2, 1, 0], [1, 0, 2]):
        turned = {name: value[:, order] for name, value in inputs.items()}
        assert close(model(turned), model(inputs))


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_the_other_studies_do_not_matter(head):
    model, inputs = model_of(head), studies()
    whole = model(inputs)
    for row in range(3):
        n = int(inputs["present"][row].sum())
        alone = {name: value[row : row + 1, :n] for name, value in inputs.items()}
        assert close(model(alone), whole[row : row + 1])


@torch.no_grad()
def test_every_image_of_the_study_and_its_view_matter():
    model, inputs = model_of(), studies()
    whole = model(inputs)
    for slot in range(3):
        other = {name: value.clone() for name, value in inputs.items()}
        other["images"][0, slot] = other["images"][1, 0]
        assert not close(model(other)[0], whole[0])
        turned = {**inputs, "views": inputs["views"].clone()}
        turned["views"][0, slot] = (turned["views"][0, slot] + 1) % 3
        assert not close(model(turned)[0], whole[0])
        assert close(model(turned)[1:], whole[1:])


@torch.no_grad()
def test_where_in_an_image_something_is_matters():
    model, inputs = model_of(), studies()
    features = model.features(inputs["images"].flatten(0, 1)).unflatten(0, (3, 3))
    light, rest = model.without_backbone(), {name: inputs[name] for name in ("views", "present")}
    turned = light({**rest, "features": features.flip(2)})
    assert not close(turned, light({**rest, "features": features}))


def test_absent_slots_get_no_gradient():
    model, inputs = model_of(), studies()
    features = torch.randn(3, 3, 4, 64, requires_grad=True)
    light = model.without_backbone().train()
    light({"features": features, "views": inputs["views"], "present": inputs["present"]}).sum().backward()
    received = features.grad.abs().sum(dim=(2, 3)) > 0
    assert torch.equal(received, inputs["present"])


@torch.no_grad()
def test_only_images_that_are_there_pass_the_backbone():
    model, seen = model_of(), []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    model(pad(studies(), 3))
    assert seen == [6]


def test_training_and_inference_compute_the_same():
    """PyTorch has a fused layer for inference only."""
    model, inputs = model_of(), studies()
    with torch.inference_mode():
        fused = model(inputs)
    assert close(fused, model(inputs).detach())


def test_layers_begin_with_different_weights():
    first, second = StudyEncoder(8, FusionConfig(max_images=2, dim=8, n_heads=2)).layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


@pytest.mark.parametrize(("n", "dim"), [(1, 8), (9, 8), (9, 10), (9, 9), (6, 8), (6, 9)])
def test_places_are_told_apart(n, dim):
    table = position_encodings(n, dim)
    assert table.shape == (n, dim)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.1


def test_a_place_of_a_square_is_its_row_and_its_column():
    table = position_encodings(9, 8).reshape(3, 3, 8)
    assert torch.equal(table[:, 0, :4], table[:, 2, :4])
    assert torch.equal(table[0, :, 4:], table[2, :, 4:])
    assert torch.equal(table[1, 0, :4], table[0, 1, 4:])
    assert table[1, 0, :4].tolist() == pytest.approx([0.8414710, 0.0099998, 0.5403023, 0.9999500], abs=1e-6)


def test_there_is_an_embedding_for_every_view():
    assert len(VIEWS) == N_VIEWS
