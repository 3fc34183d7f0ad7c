"""Training-time augmentation: the one file that knows albumentations."""

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

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks the network for a newer version
import albumentations as A

CROP_RATIO = (0.9, 1.1)
"""Width over height of a crop. The usual 3/4 to 4/3 cuts an apex or a costophrenic angle off, and stretches
a heart more than patients differ."""
CROP_TRIES = 10
"""Draws of a crop's area and ratio before the largest one in the middle is taken."""
BLUR_SIGMA = (0.001, 0.003)
"""Standard deviation as a share of the side: up to about 1 mm of a chest, less than a small nodule."""
LEAST_BLUR = 0.5
"""Standard deviation in pixels below which a blur does nothing to an image of few pixels."""
NOISE_STD = (0.01, 0.03)
"""Standard deviation as a share of white: 3 to 8 of 255 greys, from a grainy film to a portable one."""
ERASED_SIDE = (0.1, 0.25)
"""Sides of the erased rectangle, as shares of the image's: at most a sixteenth of the area is lost."""
GREYS = np.arange(256) / 255


class Draw(NamedTuple):
    """What is done to one image, in this order: geometry, then grey values as shares of white.

    The angle is in degrees, counter-clockwise; the crop (left, top, width, height) in pixels from the edges
    of the flipped and rotated image, whole ones or not. A grey becomes (contrast * grey + brightness) **
    gamma, between black and white.
    """

    flip: bool
    angle: float
    crop: tuple[float, float, float, float]
    contrast: float
    brightness: float
    gamma: float


@dataclass(frozen=True)
class Transform:
    """Augmentation as a pure function of (image, seed): uint8 (h, w) or (h, w, 3) to size x size.

    `crop_scale` is the range of the cropped share of the area, `rotate` the largest angle in degrees,
    `brightness` the largest shift as a share of white, `contrast` the largest relative change, `gamma` that
    of the exponent of grey values; `blur`, `noise` and `erase` (one black rectangle) are probabilities.
    Geometry comes before greys, so that a border is as dark as a border can be; noise after blur, as in a
    detector. Three channels are treated alike. Raises ValueError for values out of range.
    """

    size: int
    flip: bool = False
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
            raise ValueError(f"crop_scale {self.crop_scale} is no range of shares of the area")
        for name, most in {"rotate": 180, "brightness": 1, "contrast": 1, "gamma": 1}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)} is not from 0 to {most}")
        _ = self.finish  # raises for the others

    @cached_property
    def finish(self) -> A.Compose | None:
        """What comes after geometry and greys, if there is anything."""
        sigma = tuple(max(share * self.size, LEAST_BLUR) for share in BLUR_SIGMA)
        return compose(
            lambda: [
                A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=self.blur),
                A.GaussNoise(std_range=NOISE_STD, per_channel=False, p=self.noise),
                A.CoarseDropout(
                    num_holes_range=(1, 1),
                    hole_height_range=ERASED_SIDE,
                    hole_width_range=ERASED_SIDE,
                    fill=0,
                    p=self.erase,
                ),
            ]
        )

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        draw = self.draw(image.shape, seed)
        image = self.place(image, draw)
        if self.brightness or self.contrast or self.gamma:
            image = cv2.LUT(image, self.greys(draw), dst=image)
        if self.finish is None:
            return image
        # One stream for all steps, and not that of `draw`. Compose.set_random_seed gives every step the same
        # stream, so that one draw decides several of them.
        self.finish.set_random_state(np.random.default_rng([seed, 1]), random.Random(seed))  # nosec B311  # pictures
        return self.finish(image=image)["image"]

    def draw(self, shape: tuple[int, ...], seed: int) -> Draw:
        """What `seed` does to an image of that shape. A step draws the same whichever others are on."""
        height, width = shape[:2]
        shares = np.random.default_rng(seed).random(7 + 2 * CROP_TRIES).tolist()
        flip, angle, contrast, brightness, gamma = shares[:5]
        return Draw(
            self.flip and flip < 0.5,
            self.rotate * (2 * angle - 1),
            self._crop(width, height, shares[5:]),
            1 + self.contrast * (2 * contrast - 1),
            self.brightness * (2 * brightness - 1),
            1 + self.gamma * (2 * gamma - 1),
        )

    def _crop(self, width: int, height: int, shares: list[float]) -> tuple[float, float, float, float]:
        """As of torchvision's RandomResizedCrop, but not rounded to pixels."""
        (least, most), (narrowest, widest) = self.crop_scale, CROP_RATIO
        x, y, *tries = shares
        for scale, bend in zip(tries[::2], tries[1::2], strict=True):
            area = (least + (most - least) * scale) * width * height
            ratio = narrowest * (widest / narrowest) ** bend
            across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if across <= width and down <= height:
                return x * (width - across), y * (height - down), across, down
        across, down = min(width, widest * height), min(height, width / narrowest)
        return (width - across) / 2, (height - down) / 2, float(across), float(down)

    def place(self, image: np.ndarray, draw: Draw) -> np.ndarray:
        """Flip, rotate and crop `image` in one step: pixels are interpolated once."""
        height, width = image.shape[:2]
        matrix = sampling_matrix(width, height, self.size, draw)
        shrink = int(min(draw.crop[2:]) / self.size)
        if shrink > 1:  # interpolating between neighbours would pass over pixels
            smaller = width // shrink, height // shrink
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
            zoom = np.array([[smaller[0] / width], [smaller[1] / height]])
            matrix *= zoom
            matrix[:, 2:] += zoom / 2 - 0.5  # pixel 0 has its centre at a half
        return cv2.warpAffine(
            image,
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            # black where a rotation brings nothing in; without one only half pixels lie beyond the edges
            borderMode=cv2.BORDER_CONSTANT if self.rotate else cv2.BORDER_REPLICATE,
        )

    def greys(self, draw: Draw) -> np.ndarray:
        """What each of the 256 greys becomes: uint8 (256,)."""
        changed = (draw.contrast * GREYS + draw.brightness).clip(0, 1) ** draw.gamma
        return np.rint(255 * changed).astype(np.uint8)


def sampling_matrix(width: int, height: int, size: int, draw: Draw) -> np.ndarray:
    """float64 (2, 3): where in an image of width x height the pixels of the result, size x size, come from.

    Both count pixels from the centre of the upper left one.
    """
    left, top, across, down = draw.crop
    zoom_x, zoom_y = across / size, down / size
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x, y = left + zoom_x / 2 - 0.5 - centre_x, top + zoom_y / 2 - 0.5 - centre_y  # of the first, from there
    cos, sin = math.cos(math.radians(draw.angle)), math.sin(math.radians(draw.angle))
    side = -1 if draw.flip else 1
    return np.array(
        [
            [side * cos * zoom_x, -side * sin * zoom_y, centre_x + side * (cos * x - sin * y)],
            [sin * zoom_x, cos * zoom_y, centre_y + sin * x + cos * y],
        ]
    )


def compose(steps: Callable[[], list[A.BasicTransform]]) -> A.Compose | None:
    """Those of `steps` that ever happen, None if none does.

    An argument that albumentations does not know is an error.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            happening = [step for step in steps() if step.p]
            return A.Compose(happening) if happening else None
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
