"""What a backbone does with images of some size, without training it or computing much."""

import copy

import pytest
import timm
import torch
from torch import nn

from cxrlt.models.dry_run import dry_run, meta_copy, needs_two_images


class Shared(nn.Module):
    """The same convolution by two names, as in timm's CoaT, and a tensor that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.again = nn.ModuleList([self.first])
        self.shift = torch.ones(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.again[0](self.first(images)) + self.shift


class Shortcut(nn.Module):
    """Its pool ends before the last pixels, which reach the output by another way."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.scale = nn.AvgPool2d(4), nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.pool(images).flatten(1).mean(dim=1) + images[:, 0, -1].sum(dim=1)


def backbone_of(name, size=None):
    return timm.create_model(name, in_chans=1, num_classes=0, **({"img_size": size} if size else {}))


def test_the_shape_of_an_output_is_found_without_touching_the_backbone():
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4)).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert dry_run(backbone, 9, 1).shape == (1, 4, 4, 4)
    assert backbone.training
    assert not backbone[0]._forward_hooks
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_a_backbone_with_shared_parts_and_tensors_of_its_own_keeps_its_values():
    backbone = Shared()
    assert dry_run(backbone, 8, 1).shape == (1, 1, 8, 8)
    assert backbone(torch.zeros(1, 1, 8, 8)).isfinite().all()
    empty = meta_copy(backbone)
    assert meta_copy(empty) is empty
    assert empty.again[0] is empty.first
    assert all(weight.is_meta for weight in empty.parameters())


def test_what_the_backbone_raises_is_raised():
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        dry_run(nn.Conv2d(1, 1, 9), 4, 1)
    with pytest.raises(TypeError, match="its output is a tuple, not a tensor"):
        dry_run(nn.AdaptiveMaxPool2d(1, return_indices=True), 4, 1)


@pytest.mark.parametrize(
    ("name", "size", "seen"),
    [
        ("vit_tiny_patch16_224", 192, True),
        ("vit_tiny_patch16_224", 200, False),
        ("test_convnext", 96, True),
        ("test_convnext", 98, False),  # its stem is of 4 x 4 pixels
        ("test_convnext", 100, True),  # of 25 x 25 patches a later layer leaves one out, after others saw it
        ("test_resnet", 97, True),
        ("test_resnet", 98, True),
        ("test_efficientnet", 98, True),
    ],
)
def test_a_backbone_sees_the_last_pixels_or_does_not(name, size, seen):
    backbone = backbone_of(name, size if "vit" in name else None).eval()
    image = torch.rand(1, 1, size, size)
    other = image.clone()
    other[..., -1, :] = other[..., -1] = 9.0
    with torch.no_grad():
        assert torch.equal(backbone(image), backbone(other)) != seen
    assert dry_run(backbone, size, 1).sees_last_pixels == seen
    assert dry_run(meta_copy(backbone), size, 1).sees_last_pixels == seen


def test_patches_cut_out_by_hand_leave_pixels_out_as_well():
    backbone = nn.Sequential(nn.Unfold(4, stride=4), nn.Linear(9, 1))
    assert dry_run(backbone, 12, 1).sees_last_pixels
    assert not dry_run(backbone, 14, 1).sees_last_pixels


def test_pixels_that_arrive_by_another_way_are_seen():
    assert dry_run(Shortcut(), 9, 1).sees_last_pixels


@pytest.mark.parametrize(
    ("name", "size", "two"),
    [
        ("test_resnet", 32, True),
        ("test_resnet", 64, False),
        ("test_convnext", 32, False),  # no BatchNorm
        ("resnest14d", 64, True),  # it looks at the mean of the map, whatever the size
    ],
)
def test_a_batchnorm_of_one_value_per_channel_needs_two_images(name, size, two):
    backbone = backbone_of(name)
    before = copy.deepcopy(backbone.state_dict())
    state = torch.get_rng_state()
    assert needs_two_images(backbone, size, 1) == two
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    with torch.no_grad():
        if two:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                backbone.train()(torch.rand(1, 1, size, size))
        backbone.train()(torch.rand(2 if two else 1, 1, size, size))


def test_where_nothing_can_be_tried_without_values_one_image_is_tried_for_real():
    class Elsewhere(nn.Sequential):
        def forward(self, images):
            return super().forward(images + torch.ones(2)[0].item() * images.sum().item())

    backbone = Elsewhere(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1))
    assert needs_two_images(backbone, 8, 1)
    assert backbone[1].num_batches_tracked == 0
