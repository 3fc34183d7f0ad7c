import os
import pickle
import random
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest

from cxrlt.inputs.augment import Transform, build_transform, compose
from cxrlt.recipe import POLICIES, AugmentConfig

OFF = {
    "flip": False,
    "crop_scale": (1.0, 1.0),
    "rotate": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "blur": 0.0,
    "noise": 0.0,
    "erase": 0.0,
}
ALL = {
    "flip": True,
    "crop_scale": (0.8, 1.0),
    "rotate": 10.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "gamma": 0.2,
    "blur": 0.5,
    "noise": 0.5,
    "erase": 0.5,
}


@pytest.fixture
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(50, 200, (48, 48), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_an_image_is_a_function_of_its_seed_whatever_came_before(image: np.ndarray):
    transform = build_transform(48, **ALL)
    first = [transform(image, seed) for seed in range(8)]
    again = [transform(image, seed) for seed in reversed(range(8))][::-1]
    elsewhere = [pickle.loads(pickle.dumps(build_transform(48, **ALL)))(image, seed) for seed in range(8)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, elsewhere)
    assert len({one.tobytes() for one in first}) == 8


def test_seeds_of_64_bits_are_told_apart(image: np.ndarray):
    transform = build_transform(48, **ALL)
    assert (transform(image, 5) != transform(image, 5 + 2**60)).any()


def test_global_random_states_are_neither_used_nor_changed(image: np.ndarray):
    transform = build_transform(48, **ALL)
    random.seed(1)
    expected, before = transform(image, 3), random.getstate()
    np.random.seed(2)
    random.seed(1)
    np.testing.assert_array_equal(transform(image, 3), expected)
    assert random.getstate() == before


def test_the_result_is_one_grey_channel_of_the_size_asked_for(image: np.ndarray):
    for size in (32, 48, 64):
        out = build_transform(size, **ALL)(image, 0)
        assert out.shape == (size, size) and out.dtype == np.uint8


def test_everything_switched_off_changes_nothing(image: np.ndarray):
    transform = build_transform(48, **OFF)
    for seed in range(5):
        np.testing.assert_array_equal(transform(image, seed), image)


def test_the_input_is_left_as_it_was(image: np.ndarray):
    before = image.copy()
    transform = build_transform(48, **ALL)
    for seed in range(20):
        transform(image, seed)
    np.testing.assert_array_equal(image, before)


def test_flipping_mirrors_half_of_the_images_and_only_if_asked():
    ramp = np.repeat(np.linspace(0, 250, 48).astype(np.uint8)[None], 48, axis=0)

    def mirrored(flip: bool) -> int:
        transform = build_transform(48, **OFF | {"flip": flip})
        return sum(bool(out[0, 0] > out[0, -1]) for out in (transform(ramp, seed) for seed in range(400)))

    assert mirrored(False) == 0
    assert 160 <= mirrored(True) <= 240


def test_steps_draw_independently_of_one_another():
    ramp = np.repeat(np.linspace(50, 250, 48).astype(np.uint8)[None], 48, axis=0)
    transform = build_transform(48, **OFF | {"flip": True, "erase": 0.5})
    outcomes = np.zeros((2, 2), int)
    for seed in range(400):
        out = transform(ramp, seed)
        mirrored = np.median(out[:, :5]) > np.median(out[:, -5:])
        outcomes[int(mirrored), int((out == 0).any())] += 1
    assert outcomes.min() >= 70  # 100 each if independent; two of them empty if one draw decides both


def test_a_crop_keeps_at_least_the_share_asked_for():
    height = width = 200
    position = np.indices((height, width))
    transform = build_transform(100, **OFF | {"crop_scale": (0.8, 1.0)})
    shares = []
    for seed in range(100):
        rows = transform(position[0].astype(np.uint8), seed).astype(int)
        columns = transform(position[1].astype(np.uint8), seed).astype(int)
        shares.append((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / (height * width))
    assert 0.75 <= min(shares) < 0.85 and max(shares) > 0.95


def test_brightness_and_contrast_change_greys_and_nothing_else(image: np.ndarray):
    transform = build_transform(48, **OFF | {"brightness": 0.2, "contrast": 0.2})
    for seed in range(20):
        out = transform(image, seed)
        assert 0 < np.abs(out.astype(int) - image).max() <= 0.2 * 255 + 0.2 * image.max() + 1
        assert np.corrcoef(image.ravel(), out.ravel())[0, 1] > 0.99


def policy_of(name: str, size: int) -> Transform:
    return build_transform(size, **AugmentConfig(policy=name).model_dump(exclude={"policy"}))


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_changes_images_and_three_channels_alike(name: str, size: int):
    noise = np.random.default_rng(0).integers(50, 200, (size, size), dtype=np.uint8)
    radiograph = cv2.GaussianBlur(noise, (0, 0), 2)
    transform = policy_of(name, size)
    for seed in range(20):
        out = transform(radiograph, seed)
        assert out.shape == (size, size) and out.dtype == np.uint8 and (out != radiograph).mean() > 0.5
        colour = transform(np.stack([radiograph] * 3, axis=2), seed)
        np.testing.assert_array_equal(colour, np.stack([out] * 3, axis=2))


def test_policies_grow_from_light_to_strong(image: np.ndarray):
    change = {}
    for name in POLICIES:
        transform = policy_of(name, 48)
        outs = [transform(image, seed).astype(int) for seed in range(200)]
        change[name] = np.mean([np.abs(out - image).mean() for out in outs])
    assert change["light"] < change["medium"] < change["strong"]


def test_gamma_bends_greys_and_keeps_black_white_and_their_order():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    transform = build_transform(256, **OFF | {"gamma": 0.3})
    middles = []
    for seed in range(100):
        row = transform(ramp, seed)[0].astype(int)
        assert (row[0], row[-1]) == (0, 255) and (np.diff(row) >= 0).all()
        middles.append(row[128])
    assert 95 <= min(middles) < 110 and 150 < max(middles) <= 160  # 255 * .5 ** 1.3 and .5 ** .7


@pytest.mark.parametrize(("size", "least", "most"), [(64, 0.5, 0.5), (1024, 1.024, 3.072)])
def test_a_blur_grows_with_the_image(size: int, least: float, most: float):
    step = np.zeros((size, size), np.uint8)
    step[:, size // 2 :] = 200
    transform = build_transform(size, **OFF | {"blur": 1.0})
    widths = []
    for seed in range(20):
        slope = np.diff(transform(step, seed)[0].astype(float)) / 200
        at = np.arange(size - 1)
        mean = (slope * at).sum()
        widths.append(np.sqrt((slope * (at - mean) ** 2).sum()))
    assert least - 0.1 < min(widths) and max(widths) < most + 0.1
    assert size == 64 or np.ptp(widths) > 1


def test_noise_is_of_a_few_greys_and_the_same_in_all_channels():
    plain = np.full((128, 128, 3), 120, np.uint8)
    transform = build_transform(128, **OFF | {"noise": 1.0})
    deviations = [transform(plain, seed)[..., 0].std() for seed in range(40)]
    assert 2 < min(deviations) < 4 and 6 < max(deviations) < 8
    out = transform(plain, 0)
    assert (out == out[..., :1]).all() and abs(out.mean() - 120) < 1


def test_an_argument_that_albumentations_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="blur_limits"):
        compose(lambda: [A.GaussianBlur(blur_limits=(3, 5))])


@pytest.mark.parametrize("bad", [{"erase": 1.5}, {"crop_scale": (0.8, 1.2)}, {"crop_scale": (1.0, 0.8)}])
def test_a_value_out_of_range_is_an_error(bad: dict):
    with pytest.raises(ValueError):
        build_transform(48, **ALL | bad)


def test_importing_asks_no_server_for_a_newer_version():
    code = "import cxrlt.inputs.augment, os; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "1" and out.stderr == ""
