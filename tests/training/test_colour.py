"""Colours from the file to the network: red stays red at every step."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.dataset import XRayDataset
from cxrlt.inputs.mixing import Mixing
from cxrlt.models.backbone import create_model
from cxrlt.recipe import AugmentConfig, MixConfig, ModelConfig, TTAConfig
from cxrlt.training.tta import tta_variants

pytestmark = pytest.mark.slow

SIZE = 32
COLOURS = {"red.png": (200, 40, 0), "red.jpg": (200, 40, 0), "blue.jpg": (0, 40, 200)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    for name, colour in COLOURS.items():
        Image.new("RGB", (90, 120), colour).save(folder / name)
    table = pd.DataFrame(
        {"file": [str(folder / name) for name in COLOURS]}, pd.Index(COLOURS, name="image_id")
    )
    return build_cache(table, SIZE, folder / "cache", "toy", "train", folder, channels=3, workers=1)


def data_set(cache: ImageCache, **options: object) -> XRayDataset:
    return XRayDataset(cache, list(COLOURS), np.eye(3, dtype=np.float32), seed=0, size=SIZE, **options)


def test_a_red_file_is_red_in_the_cache_and_after_normalisation(cache: ImageCache):
    model = create_model(ModelConfig(backbone="test_convnext", pretrained=False), 3, SIZE, channels=3)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for row, (name, colour) in enumerate(COLOURS.items()):
        image = data_set(cache)[0, row][0]["images"]
        assert image.shape == (3, SIZE, SIZE)
        assert (image.float() - torch.tensor(colour)[:, None, None]).abs().max() <= 3, name  # JPEG
        model.features(image[None])
        mean, std = model.backbone.pretrained_cfg["mean"], model.backbone.pretrained_cfg["std"]
        expected = [(value / 255 - m) / s for value, m, s in zip(colour, mean, std, strict=True)]
        assert seen[-1].mean(dim=(0, 2, 3)).tolist() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("policy", ["strong", "dermoscopy", "fundus"])
def test_an_augmented_red_image_is_red_and_all_its_channels_have_one_lookup(cache: ImageCache, policy: str):
    transform = Transform(
        SIZE, **AugmentConfig(policy=policy, noise=0, blur=0).model_dump(exclude={"policy"})
    )
    dataset = data_set(cache, transform=transform)
    for epoch in range(20):
        red, green, blue = dataset[epoch, 0][0]["images"][
            :, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2
        ]
        seed = dataset.augmentation_seed(epoch, 0)
        table = transform.lookup_table(transform.sample_params((SIZE, SIZE, 3), seed))
        if red.max() > 0:  # else it is erased
            assert [plane.unique().tolist() for plane in (red, green, blue)] == [
                [table[value]] for value in COLOURS["red.png"]
            ]


def test_mixing_red_with_blue_changes_no_channel_order(cache: ImageCache):
    mixing = Mixing.create(
        MixConfig(kinds=("mixup", "cutmix", "mosaic"), probability=1), list("abc"), None, "single_label"
    )
    dataset = data_set(cache, mixing=mixing)
    for epoch in range(20):
        image, targets, _ = dataset[epoch, 0]
        means = image["images"].float().mean(dim=(1, 2))
        blue = targets[2].item()
        assert means.tolist() == pytest.approx([200 * (1 - blue), 40, 200 * blue], abs=3)


def test_every_variant_of_test_time_augmentation_is_red(cache: ImageCache):
    image = data_set(cache)[0, 0][0]["images"][None]
    variants = list(tta_variants(image, TTAConfig(flip=True, scales=(0.8, 1.2), crop=0.9)))
    assert len(variants) == 16
    for variant in variants:
        assert variant[0, :, SIZE // 2, SIZE // 2].tolist() == list(COLOURS["red.png"])
