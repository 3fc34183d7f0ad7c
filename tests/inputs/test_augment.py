import os
import pickle
import random
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest

from cxrlt.inputs.augment import CROP_RATIO, AugmentParams, Transform, compose
from cxrlt.recipe import POLICIES, AugmentConfig

pytestmark = pytest.mark.slow

ALL = {
    "flip": True,
    "vertical_flip": True,
    "crop_scale": (0.8, 1.0),
    "rotate": 10.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "gamma": 0.2,
    "blur": 0.5,
    "noise": 0.5,
    "erase": 0.5,
}


PARAMS_OF_0_2_0 = (-5.263789868078006, 7.919653808843135, 14.964492479705443)
"""Angle, left and top of a crop that version 0.2.0 samples: recipes keep their augmentation."""
WHOLE = (0.0, 0.0, 48.0, 48.0)


def noise_image(height: int, width: int, channels: int = 1) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth_image(height: int, width: int) -> np.ndarray:
    return cv2.GaussianBlur(noise_image(height, width), (0, 0), 4)


@pytest.fixture
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(50, 200, (48, 48), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_augmentation_depends_on_the_seed_only(image: np.ndarray):
    transform = Transform(48, **ALL)
    first = [transform(image, seed) for seed in range(8)]
    again = [transform(image, seed) for seed in reversed(range(8))][::-1]
    elsewhere = [pickle.loads(pickle.dumps(Transform(48, **ALL)))(image, seed) for seed in range(8)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, elsewhere)
    assert len({one.tobytes() for one in first}) == 8


def test_seeds_of_64_bits_give_different_results(image: np.ndarray):
    transform = Transform(48, **ALL)
    assert (transform(image, 5) != transform(image, 5 + 2**60)).any()


def test_global_random_states_are_neither_used_nor_changed(image: np.ndarray):
    transform = Transform(48, **ALL)
    random.seed(1)
    expected, before = transform(image, 3), random.getstate()
    np.random.seed(2)
    random.seed(1)
    np.testing.assert_array_equal(transform(image, 3), expected)
    assert random.getstate() == before


def test_the_result_is_one_grey_channel_of_the_requested_size(image: np.ndarray):
    for size in (32, 48, 64):
        out = Transform(size, **ALL)(image, 0)
        assert out.shape == (size, size) and out.dtype == np.uint8


@pytest.mark.parametrize("size", [47, 48, 384])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rotate", [0.0, 1e-12])
def test_everything_switched_off_changes_nothing(size: int, channels: int, rotate: float):
    image = noise_image(size, size, channels)
    transform = Transform(size, rotate=rotate)
    for seed in range(5):
        np.testing.assert_array_equal(transform(image, seed), image)


@pytest.mark.parametrize("size", [47, 48, 384])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rotate", [0.0, 1e-12])
def test_a_flip_is_an_exact_mirror(size: int, channels: int, rotate: float):
    image = noise_image(size, size, channels)
    transform = Transform(size, flip=True, rotate=rotate)
    mirrored = [transform.sample_params(image.shape, seed).flip for seed in range(10)]
    assert set(mirrored) == {False, True}
    for seed, flip in enumerate(mirrored):
        np.testing.assert_array_equal(transform(image, seed), image[:, ::-1] if flip else image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vertical_flip_is_an_exact_mirror_of_half_of_the_images(channels: int):
    image = noise_image(47, 47, channels)
    transform = Transform(47, vertical_flip=True)
    flipped = [(transform(image, seed) == image[::-1]).all() for seed in range(400)]
    assert 160 <= sum(flipped) <= 240
    assert flipped == [transform.sample_params(image.shape, seed).vertical_flip for seed in range(400)]
    assert all((transform(image, seed) == image).all() for seed in range(400) if not flipped[seed])
    turned = warped(smooth_image(48, 48), 48, rotate=180.0, angle=90.0, vertical_flip=True)
    np.testing.assert_allclose(turned, np.rot90(smooth_image(48, 48)[::-1]), atol=1)


def test_a_vertical_flip_takes_its_random_number_after_all_others():
    on = {"flip": True, "crop_scale": (0.5, 0.8), "rotate": 10.0, "brightness": 0.2, "contrast": 0.2}
    before = Transform(48, **on).sample_params((100, 90), 3)
    np.testing.assert_allclose([before.angle, *before.crop[:2]], PARAMS_OF_0_2_0, rtol=1e-12)
    after = [Transform(48, vertical_flip=True, **on).sample_params((100, 90), seed) for seed in range(40)]
    assert {one.vertical_flip for one in after} == {False, True}
    without = [Transform(48, **on).sample_params((100, 90), seed) for seed in range(40)]
    assert [one._replace(vertical_flip=False) for one in after] == without


def test_the_input_is_not_changed(image: np.ndarray):
    before = image.copy()
    transform = Transform(48, **ALL)
    for seed in range(20):
        transform(image, seed)
    np.testing.assert_array_equal(image, before)


def test_flip_mirrors_half_of_the_images_and_is_off_by_default():
    ramp = np.repeat(np.linspace(0, 250, 48).astype(np.uint8)[None], 48, axis=0)

    def mirrored(flip: bool) -> int:
        transform = Transform(48, flip=flip)
        return sum(bool(out[0, 0] > out[0, -1]) for out in (transform(ramp, seed) for seed in range(400)))

    assert mirrored(False) == 0
    assert 160 <= mirrored(True) <= 240


def test_steps_use_independent_random_numbers():
    ramp = np.repeat(np.linspace(50, 250, 48).astype(np.uint8)[None], 48, axis=0)
    transform = Transform(48, flip=True, erase=0.5)
    outcomes = np.zeros((2, 2), int)
    for seed in range(400):
        out = transform(ramp, seed)
        mirrored = np.median(out[:, :5]) > np.median(out[:, -5:])
        outcomes[int(mirrored), int((out == 0).any())] += 1
    assert outcomes.min() >= 70  # 100 each if independent; two of them 0 if both use one random number


def warped(image: np.ndarray, size: int, rotate: float = 0.0, **drawn: object) -> np.ndarray:
    """Return the image warped to `size` pixels; `rotate` is the limit of the transform, not the angle."""
    height, width = image.shape[:2]
    params = AugmentParams(False, 0.0, (0.0, 0.0, float(width), float(height)), 1.0, 0.0, 1.0)._replace(
        **drawn
    )
    return Transform(size, rotate=rotate).warp(image, params)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [97, 160, 250])
@pytest.mark.parametrize("crop", [(0, 0, 200, 180), (0, 0, 150, 170), (20, 30, 160, 150)])
def test_a_crop_equals_slice_and_resize(size: int, crop: tuple[int, int, int, int], channels: int):
    image = smooth_image(180, 200)
    if channels == 3:
        image = np.dstack([image, 255 - image, image // 2])
    left, top, width, height = crop
    cut = image[top : top + height, left : left + width]
    expected = cv2.resize(cut, (size, size), interpolation=cv2.INTER_LINEAR).astype(int)
    difference = np.abs(warped(image, size, crop=crop) - expected)
    assert difference[2:-2, 2:-2].max() <= 1  # a slice has no pixels outside of its edges
    assert difference.max() <= 8


def test_a_crop_that_reaches_the_edges_is_not_darkened_there():
    white = np.full((48, 48), 255, np.uint8)
    assert (warped(white, 96) == 255).all()


def test_strong_shrinking_averages_pixels():
    checkerboard = (np.indices((192, 192)).sum(axis=0) % 2 * 200).astype(np.uint8)
    for size in (48, 96):
        assert (warped(checkerboard, size) == 100).all()
    image = smooth_image(193, 187)
    for flip in (False, True):
        out = warped(image, 48, flip=flip)
        expected = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(out, expected[:, ::-1] if flip else expected, atol=6)


@pytest.mark.parametrize("size", [47, 48])
def test_rotation_is_counter_clockwise_about_the_centre(size: int):
    image = smooth_image(size, size)
    for turns in (1, 2, 3):
        out = warped(image, size, rotate=180.0, angle=90.0 * turns)
        np.testing.assert_allclose(out, np.rot90(image, turns), atol=1)
    mirrored = warped(image, size, rotate=180.0, angle=90.0, flip=True)
    np.testing.assert_allclose(mirrored, np.rot90(image[:, ::-1]), atol=1)


def test_rotation_then_crop_is_what_opencv_gives_in_two_steps():
    image = smooth_image(200, 200)
    matrix = cv2.getRotationMatrix2D((99.5, 99.5), 20, 1)
    turned = cv2.warpAffine(image[:, ::-1].copy(), matrix, (200, 200))
    expected = cv2.resize(turned[45:145, 50:160], (150, 150), interpolation=cv2.INTER_LINEAR)
    out = warped(image, 150, rotate=20.0, angle=20.0, flip=True, crop=(50.0, 45.0, 110.0, 100.0))
    np.testing.assert_allclose(out[2:-2, 2:-2], expected[2:-2, 2:-2].astype(int), atol=2)


def test_corners_of_a_rotation_are_black():
    out = warped(np.full((48, 48), 255, np.uint8), 48, rotate=45.0, angle=45.0, crop=WHOLE)
    assert out[0, 0] == out[0, -1] == out[-1, 0] == 0 and out[24, 24] == 255


def sample_many(n: int = 4000, shape: tuple[int, int] = (100, 100), **on: object) -> list[AugmentParams]:
    transform = Transform(48, **on)
    return [transform.sample_params(shape, seed) for seed in range(n)]


def assert_uniform(values: list[float], low: float, high: float) -> None:
    """Kolmogorov-Smirnov test at the 0.1 % level."""
    ordered = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    assert (
        max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max()) < 1.95 / len(values) ** 0.5
    )


def test_angles_and_grey_changes_are_uniform_within_their_limits():
    drawn = sample_many(rotate=10.0, brightness=0.2, contrast=0.3, gamma=0.4)
    assert_uniform([one.angle for one in drawn], -10, 10)
    assert_uniform([one.brightness for one in drawn], -0.2, 0.2)
    assert_uniform([one.contrast for one in drawn], 0.7, 1.3)
    assert_uniform([one.gamma for one in drawn], 0.6, 1.4)


def test_crops_have_uniform_areas_log_uniform_ratios_and_uniform_places():
    crops = np.array([one.crop for one in sample_many(crop_scale=(0.5, 0.8))])
    left, top, width, height = crops.T
    assert_uniform(width * height / 1e4, 0.5, 0.8)
    assert_uniform(np.log(width / height), *np.log(CROP_RATIO))
    assert_uniform(left / (100 - width), 0, 1)
    assert_uniform(top / (100 - height), 0, 1)


def test_a_crop_is_the_first_that_fits_and_the_largest_in_the_middle_if_none_does():
    for left, top, width, height in (one.crop for one in sample_many(2000, crop_scale=(0.8, 1.0))):
        assert 0 <= left <= left + width <= 100 + 1e-9 and 0 <= top <= top + height <= 100 + 1e-9
    assert {one.crop for one in sample_many(20, (100, 100))} == {(0.0, 0.0, 100.0, 100.0)}
    (wide,) = {one.crop for one in sample_many(20, (100, 200))}
    np.testing.assert_allclose(wide, (45, 0, 110, 100))
    (tall,) = {one.crop for one in sample_many(20, (200, 90))}
    np.testing.assert_allclose(tall, (0, 50, 90, 100))


def test_parameters_are_sampled_independently():
    on = {"flip": True, "vertical_flip": True, "crop_scale": (0.5, 0.8), "rotate": 10.0}
    drawn = sample_many(**on, brightness=0.2, contrast=0.2, gamma=0.2)
    numbers = np.array(
        [(one.flip, one.angle, *one.crop[:2], one.crop[2] * one.crop[3], *one[3:]) for one in drawn]
    )
    correlations = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    correlations[2:5, 2:5] = 0  # the position of a small crop varies more
    assert np.abs(correlations).max() < 0.06


def test_switching_a_step_off_does_not_change_the_others():
    every, some = Transform(48, **ALL), Transform(48, **ALL | {"rotate": 0.0, "contrast": 0.0})
    for seed in range(5):
        drawn = every.sample_params((48, 48), seed)
        assert some.sample_params((48, 48), seed) == drawn._replace(angle=0.0, contrast=1.0)


@pytest.mark.parametrize("step", ["blur", "noise", "erase"])
def test_albumentations_steps_are_independent_of_our_parameters(step: str, image: np.ndarray):
    transform = Transform(48, flip=True, **{step: 0.5})
    outcomes = np.zeros((2, 2), int)
    for seed in range(400):
        params = transform.sample_params(image.shape, seed)
        touched = (transform(image, seed) != transform.warp(image, params)).any()
        outcomes[int(params.flip), int(touched)] += 1
    assert outcomes.min() >= 70  # 100 each if independent


def test_lookup_table_equals_albumentations():
    ramp = np.arange(256, dtype=np.uint8)[None]
    transform = Transform(48, brightness=0.3, contrast=0.3, gamma=0.3)
    for seed in range(50):
        params = transform.sample_params((48, 48), seed)
        shift, change, exponent = params.brightness, params.contrast - 1, 100 * params.gamma
        theirs = A.Compose(
            [
                A.RandomBrightnessContrast((shift, shift), (change, change), p=1),
                A.RandomGamma((exponent, exponent), p=1),
            ]
        )
        expected = theirs(image=ramp)["image"]
        steepest = np.abs(np.diff(expected.astype(int))).max()  # albumentations truncates twice
        np.testing.assert_allclose(transform.lookup_table(params)[None], expected, atol=1 + steepest)


def test_a_crop_keeps_at_least_the_minimum_scale():
    height = width = 200
    position = np.indices((height, width))
    transform = Transform(100, crop_scale=(0.8, 1.0))
    shares = []
    for seed in range(100):
        rows = transform(position[0].astype(np.uint8), seed).astype(int)
        columns = transform(position[1].astype(np.uint8), seed).astype(int)
        shares.append((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / (height * width))
    assert 0.75 <= min(shares) < 0.85 and max(shares) > 0.95


def test_brightness_and_contrast_only_change_grey_levels(image: np.ndarray):
    transform = Transform(48, brightness=0.2, contrast=0.2)
    for seed in range(20):
        out = transform(image, seed)
        assert 0 < np.abs(out.astype(int) - image).max() <= 0.2 * 255 + 0.2 * image.max() + 1
        assert np.corrcoef(image.ravel(), out.ravel())[0, 1] > 0.99


def policy_of(name: str, size: int) -> Transform:
    return Transform(size, **AugmentConfig(policy=name).model_dump(exclude={"policy"}))


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_changes_images_and_all_channels_equally(name: str, size: int):
    noise = np.random.default_rng(0).integers(50, 200, (size, size), dtype=np.uint8)
    radiograph = cv2.GaussianBlur(noise, (0, 0), 2)
    transform = policy_of(name, size)
    for seed in range(20):
        out = transform(radiograph, seed)
        assert out.shape == (size, size) and out.dtype == np.uint8 and (out != radiograph).mean() > 0.5
        colour = transform(np.stack([radiograph] * 3, axis=2), seed)
        np.testing.assert_array_equal(colour, np.stack([out] * 3, axis=2))


@pytest.mark.parametrize("name", ["dermoscopy", "fundus"])
def test_policies_without_an_upper_side_turn_and_mirror_images_in_every_way(name: str):
    transform = policy_of(name, 48)
    drawn = [transform.sample_params((48, 48), seed) for seed in range(400)]
    assert min(one.angle for one in drawn) < -170 and max(one.angle for one in drawn) > 170
    assert len({(one.flip, one.vertical_flip) for one in drawn}) == 4


def test_a_red_image_stays_red_as_all_channels_get_the_same_lookup(image: np.ndarray):
    red = np.dstack([image, image // 4, np.zeros_like(image)])
    transform = Transform(48, brightness=0.1, contrast=0.2, gamma=0.2)
    for seed in range(20):
        params = transform.sample_params(red.shape, seed)
        table = transform.lookup_table(params)
        np.testing.assert_array_equal(transform(red, seed), table[transform.warp(red, params)])
        means = transform(red, seed).reshape(-1, 3).mean(axis=0)
        assert means[0] > means[1] > means[2]


def test_policies_grow_from_light_to_strong(image: np.ndarray):
    change = {}
    for name in POLICIES:
        transform = policy_of(name, 48)
        outs = [transform(image, seed).astype(int) for seed in range(200)]
        change[name] = np.mean([np.abs(out - image).mean() for out in outs])
    assert change["light"] < change["medium"] < change["strong"]


def test_gamma_keeps_black_white_and_the_order_of_grey_levels():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    transform = Transform(256, gamma=0.3)
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
    transform = Transform(size, blur=1.0)
    widths = []
    for seed in range(20):
        slope = np.diff(transform(step, seed)[0].astype(float)) / 200
        at = np.arange(size - 1)
        mean = (slope * at).sum()
        widths.append(np.sqrt((slope * (at - mean) ** 2).sum()))
    assert least - 0.1 < min(widths) and max(widths) < most + 0.1
    assert size == 64 or np.ptp(widths) > 1


def test_noise_is_weak_and_equal_in_all_channels():
    plain = np.full((128, 128, 3), 120, np.uint8)
    transform = Transform(128, noise=1.0)
    deviations = [transform(plain, seed)[..., 0].std() for seed in range(40)]
    assert 2 < min(deviations) < 4 and 6 < max(deviations) < 8
    out = transform(plain, 0)
    assert (out == out[..., :1]).all() and abs(out.mean() - 120) < 1


def test_an_argument_that_albumentations_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="blur_limits"):
        compose(lambda: [A.GaussianBlur(blur_limits=(3, 5))])


@pytest.mark.parametrize(
    "bad",
    [
        {"erase": 1.5},
        {"crop_scale": (0.8, 1.2)},
        {"crop_scale": (1.0, 0.8)},
        {"crop_scale": (0.0, 0.8)},
        {"rotate": -1.0},
        {"brightness": 1.5},
        {"contrast": -0.1},
        {"gamma": 1.5},
    ],
)
def test_a_value_out_of_range_is_an_error(bad: dict):
    with pytest.raises(ValueError):
        Transform(48, **ALL | bad)


def test_import_does_not_check_online_for_a_new_version():
    code = "import cxrlt.inputs.augment, os; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "1" and out.stderr == ""
