"""Training-time augmentation: the one file that knows albumentations."""

import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks the network for a newer version
import albumentations as A

CROP_RATIO = (0.9, 1.1)
"""Width over height of a crop. The usual 3/4 to 4/3 cuts an apex or a costophrenic angle off, and stretches
a heart more than patients differ."""
BLUR_SIGMA = (0.001, 0.003)
"""Standard deviation as a share of the side: up to about 1 mm of a chest, less than a small nodule."""
LEAST_BLUR = 0.5
"""Standard deviation in pixels below which a blur does nothing to an image of few pixels."""
NOISE_STD = (0.01, 0.03)
"""Standard deviation as a share of white: 3 to 8 of 255 greys, from a grainy film to a portable one."""
ERASED_SIDE = (0.1, 0.25)
"""Sides of the erased rectangle, as shares of the image's: at most a sixteenth of the area is lost."""


@dataclass(frozen=True)
class Transform:
    """Augmentation as a pure function of (image, seed): uint8 (h, w) or (h, w, 3) to size x size."""

    pipeline: A.Compose

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        # One stream for all steps. Compose.set_random_seed gives every step a stream that starts alike,
        # so that one draw decides several of them: only mirrored images would ever be erased.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self.pipeline(image=image)["image"]


def build_transform(
    size: int,
    *,
    flip: bool,
    crop_scale: tuple[float, float],
    rotate: float,
    brightness: float,
    contrast: float,
    gamma: float,
    blur: float,
    noise: float,
    erase: float,
) -> Transform:
    """The augmentation for models of `size` pixels.

    `crop_scale` is the range of the cropped share of the area, `rotate` the largest angle in degrees,
    `brightness` the largest shift as a share of white, `contrast` the largest relative change, `gamma` that
    of the exponent of grey values; `blur`, `noise` and `erase` (one black rectangle) are probabilities.
    Geometry comes before greys, so that a border is as dark as a border can be; noise after blur, as in a
    detector. Three channels are treated alike. Raises ValueError for values albumentations rejects or warns
    about.
    """
    sigma = tuple(max(share * size, LEAST_BLUR) for share in BLUR_SIGMA)
    return compose(
        lambda: [
            A.HorizontalFlip(p=0.5 if flip else 0),
            A.Rotate(limit=rotate, border_mode=cv2.BORDER_CONSTANT, fill=0, p=1 if rotate else 0),
            A.RandomResizedCrop(
                size=(size, size), scale=crop_scale, ratio=CROP_RATIO, area_for_downscale="image", p=1
            ),
            A.RandomBrightnessContrast(
                brightness_limit=brightness, contrast_limit=contrast, p=1 if brightness or contrast else 0
            ),
            A.RandomGamma(gamma_limit=(100 * (1 - gamma), 100 * (1 + gamma)), p=1 if gamma else 0),
            A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=blur),
            A.GaussNoise(std_range=NOISE_STD, per_channel=False, p=noise),
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=ERASED_SIDE,
                hole_width_range=ERASED_SIDE,
                fill=0,
                p=erase,
            ),
        ]
    )


def compose(steps: Callable[[], list[A.BasicTransform]]) -> Transform:
    """The transform of `steps`, where an argument that albumentations does not know is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return Transform(A.Compose(steps()))
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
