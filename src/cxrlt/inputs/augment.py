"""Training-time augmentation. Only this file imports albumentations."""

import math
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise the import checks online for a new version
import albumentations as A

CROP_RATIO = (0.9, 1.1)
"""Range of width / height of a crop.

The range 3/4 to 4/3 of torchvision cuts off lung apices or costophrenic angles. It also stretches the heart
by more than hearts differ between patients.
"""
N_CROP_TRIES = 10
"""Tries to sample a crop that fits into the image. After these the largest central crop is used, as in
torchvision's RandomResizedCrop."""
BLUR_SIGMA = (0.001, 0.003)
"""Range of the standard deviation of the blur, as a share of the side.

0.003 is about 1 mm on a chest radiograph, less than a small nodule.
"""
MIN_BLUR_SIGMA = 0.5
"""Smallest standard deviation in pixels. On a small image a weaker blur changes nothing."""
NOISE_STD = (0.01, 0.03)
"""Range of the standard deviation of the noise, as a share of white: 3 to 8 of 255 grey levels."""
ERASE_SIDE = (0.1, 0.25)
"""Range of the sides of the erased rectangle, as shares of the image's sides: at most 1/16 of the area."""
GREY_LEVELS = np.arange(256) / 255
"""All grey levels, as shares of white."""


class AugmentParams(NamedTuple):
    """Parameters of the augmentation of one image. Geometry is applied first, then grey levels.

    `angle` is in degrees, counter-clockwise. `crop` is (left, top, width, height) in pixels of the flipped
    and rotated image; the numbers need not be whole. A grey level (share of white) becomes
    (contrast * grey + brightness) ** gamma, clipped to 0 and 1.
    """

    flip: bool
    angle: float
    crop: tuple[float, float, float, float]
    contrast: float
    brightness: float
    gamma: float
    vertical_flip: bool = False


@dataclass(frozen=True)
class Transform:
    """Augmentation as a pure function of (image, seed): uint8 (h, w[, 3]) to uint8 (size, size[, 3]).

    `crop_scale` is the range of the crop's share of the area. `rotate` is the maximum angle in degrees,
    `brightness` the maximum shift as a share of white, `contrast` the maximum relative change, `gamma` the
    maximum relative change of the exponent of grey levels. `blur`, `noise` and `erase` (one black rectangle)
    are probabilities. The order is geometry, grey levels, blur, noise, erasing: black borders of a rotation
    then get the same change of brightness as the image, and noise is not blurred, as in a detector. All
    channels get the same changes. Raises ValueError for values out of range.
    """

    size: int
    flip: bool = False
    vertical_flip: bool = False
    crop_scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}, not a range between 0 and 1")
        for name, maximum in {"rotate": 180, "brightness": 1, "contrast": 1, "gamma": 1}.items():
            if not 0 <= getattr(self, name) <= maximum:
                raise ValueError(f"{name} is {getattr(self, name)}, not between 0 and {maximum}")
        _ = self.blur_noise_erase  # albumentations checks the probabilities

    @cached_property
    def blur_noise_erase(self) -> A.Compose | None:
        """The steps after geometry and grey levels; None if all their probabilities are 0."""
        sigma = tuple(max(share * self.size, MIN_BLUR_SIGMA) for share in BLUR_SIGMA)
        return compose(
            lambda: [
                A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=self.blur),
                A.GaussNoise(std_range=NOISE_STD, per_channel=False, p=self.noise),
                A.CoarseDropout(
                    num_holes_range=(1, 1),
                    hole_height_range=ERASE_SIDE,
                    hole_width_range=ERASE_SIDE,
                    fill=0,
                    p=self.erase,
                ),
            ]
        )

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return the augmented image, uint8 (size, size) or (size, size, 3). `image` is not changed."""
        params = self.sample_params(image.shape, seed)
        image = self.warp(image, params)
        if self.brightness or self.contrast or self.gamma:
            image = cv2.LUT(image, self.lookup_table(params), dst=image)
        steps = self.blur_noise_erase
        if steps is None:
            return image
        # One random stream for all steps, other than that of `sample_params`. Compose.set_random_seed would
        # give every step the same stream, so that their random numbers would be equal.
        steps.set_random_state(np.random.default_rng([seed, 1]), random.Random(seed))  # nosec B311  # images
        return steps(image=image)["image"]

    def sample_params(self, shape: tuple[int, ...], seed: int) -> AugmentParams:
        """Return the parameters of `seed` for an image of shape (h, w[, 3]).

        A parameter does not depend on which other steps are on.
        """
        height, width = shape[:2]
        shares = np.random.default_rng(seed).random(8 + 2 * N_CROP_TRIES).tolist()
        flip, angle, contrast, brightness, gamma = shares[:5]
        *crop, vertical_flip = shares[5:]
        return AugmentParams(
            self.flip and flip < 0.5,
            self.rotate * (2 * angle - 1),
            self._crop(width, height, crop),
            1 + self.contrast * (2 * contrast - 1),
            self.brightness * (2 * brightness - 1),
            1 + self.gamma * (2 * gamma - 1),
            self.vertical_flip and vertical_flip < 0.5,
        )

    def _crop(self, width: int, height: int, shares: list[float]) -> tuple[float, float, float, float]:
        """Return (left, top, width, height) as torchvision's RandomResizedCrop, but not rounded to pixels."""
        (min_scale, max_scale), (min_ratio, max_ratio) = self.crop_scale, CROP_RATIO
        x, y, *tries = shares
        for scale_share, ratio_share in zip(tries[::2], tries[1::2], strict=True):
            area = (min_scale + (max_scale - min_scale) * scale_share) * width * height
            ratio = min_ratio * (max_ratio / min_ratio) ** ratio_share
            crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if crop_width <= width and crop_height <= height:
                return x * (width - crop_width), y * (height - crop_height), crop_width, crop_height
        crop_width, crop_height = min(width, max_ratio * height), min(height, width / min_ratio)
        return (width - crop_width) / 2, (height - crop_height) / 2, float(crop_width), float(crop_height)

    def warp(self, image: np.ndarray, params: AugmentParams) -> np.ndarray:
        """Flip, rotate and crop uint8 `image` (h, w[, 3]) to size x size; pixels are interpolated once."""
        height, width = image.shape[:2]
        matrix = sampling_matrix(width, height, self.size, params)
        shrink = int(min(params.crop[2:]) / self.size)
        if shrink > 1:  # linear interpolation would skip pixels
            smaller = width // shrink, height // shrink
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
            zoom = np.array([[smaller[0] / width], [smaller[1] / height]])
            matrix *= zoom
            matrix[:, 2:] += zoom / 2 - 0.5  # the centre of pixel 0 is at 0.5
        return cv2.warpAffine(
            image,
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            # a rotation leaves black corners; without rotation only half a pixel is outside of the image
            borderMode=cv2.BORDER_CONSTANT if self.rotate else cv2.BORDER_REPLICATE,
        )

    def lookup_table(self, params: AugmentParams) -> np.ndarray:
        """Return the new value of each of the 256 grey levels: uint8 (256,)."""
        changed = (params.contrast * GREY_LEVELS + params.brightness).clip(0, 1) ** params.gamma
        return np.rint(255 * changed).astype(np.uint8)


def sampling_matrix(width: int, height: int, size: int, params: AugmentParams) -> np.ndarray:
    """Return the affine matrix (2, 3) float64 from pixels of the result (size x size) to pixels of the image.

    Coordinates are (x, y); (0, 0) is the centre of the upper left pixel.
    """
    left, top, crop_width, crop_height = params.crop
    zoom_x, zoom_y = crop_width / size, crop_height / size
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    # the first pixel of the crop, relative to the centre of the image
    x, y = left + zoom_x / 2 - 0.5 - centre_x, top + zoom_y / 2 - 0.5 - centre_y
    cos, sin = math.cos(math.radians(params.angle)), math.sin(math.radians(params.angle))
    side, up = -1 if params.flip else 1, -1 if params.vertical_flip else 1
    return np.array(
        [
            [side * cos * zoom_x, -side * sin * zoom_y, centre_x + side * (cos * x - sin * y)],
            [up * sin * zoom_x, up * cos * zoom_y, centre_y + up * sin * x + up * cos * y],
        ]
    )


def compose(steps: Callable[[], list[A.BasicTransform]]) -> A.Compose | None:
    """Return a Compose of the steps with a probability above 0; None if there are none.

    Raises ValueError for an argument that albumentations does not know (albumentations only warns).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            active = [step for step in steps() if step.p]
            return A.Compose(active) if active else None
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
