"""Mixup, cutmix and mosaic: training images mixed from several images, and their labels.

All random numbers of a mixed image come from one seed, so that targets are known without reading an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import cv2
import numpy as np

from cxrlt.challenges.base import Task
from cxrlt.errors import UserError
from cxrlt.recipe import MixConfig

Kind = Literal["mixup", "cutmix", "mosaic"]
MOSAIC_CENTRE = (0.4, 0.6)
"""Range of the point where the four images of a mosaic meet, as shares of the side.

So an image's sides differ by at most 2 to 3.
"""


@dataclass(frozen=True)
class Mix:
    """How one image is mixed: the `rows` (k,) of its images, and their `weights` (k,) with sum 1.

    `cut`, in pixels, is the rectangle (top, bottom, left, right) of a cutmix, or the point (y, x) where the
    images of a mosaic meet.
    """

    kind: Kind
    rows: np.ndarray
    weights: np.ndarray
    cut: tuple[int, ...] = ()

    def image(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Mix the images of `rows`, each uint8 (size, size[, 3]), into one of the same shape."""
        if self.kind == "mixup":
            blend = self.weights[0] * images[0].astype(np.float32) + self.weights[1] * images[1]
            return np.rint(blend).astype(np.uint8)
        mixed = images[0].copy()
        if self.kind == "cutmix":
            top, bottom, left, right = self.cut
            mixed[top:bottom, left:right] = images[1][top:bottom, left:right]
            return mixed
        for (rows, columns), image in zip(_quadrants(self.cut, len(mixed)), images, strict=True):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            mixed[rows, columns] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return mixed


@dataclass(frozen=True)
class Mixing:
    """Which images are mixed, and how: a recipe's data.mix for the classes of a challenge.

    Sources: mixup, Zhang et al., ICLR 2018, equation 1; cutmix, Yun et al., ICCV 2019, equations 1 and 2.
    The weight of a cutmix is the share of pixels after the rectangle is clipped.
    """

    kinds: tuple[Kind, ...]
    probability: float
    alpha: float
    union_kinds: frozenset[Kind]
    """Kinds whose labels are the union of the images' labels. For the others labels are weighted means."""
    no_finding: int | None = None
    """Column of the class "no finding", which is positive only if it is positive in all images."""

    @classmethod
    def create(
        cls, cfg: MixConfig, classes: Sequence[str], no_finding: str | None, task: Task
    ) -> Self | None:
        """Return the mixing of a recipe, or None. Raises UserError for a union in a single-label task."""
        if not cfg.kinds or not cfg.probability:
            return None
        if cfg.labels == "union" and task == "single_label":
            raise UserError(
                "data.mix.labels union gives an image several classes, but this is a single-label challenge. "
                "Use data.mix.labels soft or auto."
            )
        union_kinds: frozenset[Kind] = frozenset()
        if task != "single_label" and cfg.labels != "soft":
            union_kinds = frozenset(cfg.kinds if cfg.labels == "union" else ["mosaic"])
        column = list(classes).index(no_finding) if no_finding is not None else None
        return cls(cfg.kinds, cfg.probability, cfg.alpha, union_kinds, column)

    def sample(self, seed: int, row: int, n_rows: int, size: int) -> Mix | None:
        """Return how `row` is mixed with this seed at `size` pixels; None if it is not mixed.

        The other rows are sampled uniformly from all `n_rows`.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.probability:
            return None
        kind = self.kinds[rng.integers(len(self.kinds))]
        rows = np.array([row, *rng.integers(n_rows, size=3 if kind == "mosaic" else 1)])
        if kind == "mosaic":
            rows = rng.permutation(rows)  # otherwise `row` would always be the upper left image
            cut = tuple(np.rint(rng.uniform(*MOSAIC_CENTRE, 2) * size).astype(int).tolist())
            areas = [(a.stop - a.start) * (b.stop - b.start) for a, b in _quadrants(cut, size)]
            return Mix(kind, rows, np.array(areas) / size**2, cut)
        lam = rng.beta(self.alpha, self.alpha)
        if kind == "mixup":
            return Mix(kind, rows, np.array([lam, 1 - lam]))
        top, bottom, left, right = cut = _cutmix_box(rng, np.sqrt(1 - lam), size)
        other = (bottom - top) * (right - left) / size**2
        return Mix(kind, rows, np.array([1 - other, other]), cut)

    def targets(self, mix: Mix, targets: np.ndarray) -> np.ndarray:
        """Return targets float32 (c,) of a mixed image, from the targets (k, c) of its rows.

        Images without a visible pixel do not count. Weighted mean: NaN if one is NaN. Union: 1 if any is 1,
        else NaN if one is NaN, else the maximum. Class "no finding" in a union: 0 if any is 0, else NaN if
        one is NaN, else the minimum.
        """
        visible = mix.weights > 0
        parts = targets[visible]
        if mix.kind not in self.union_kinds:
            return (mix.weights[visible] @ parts).astype(np.float32)
        union = np.where((parts == 1).any(axis=0), 1, parts.max(axis=0))
        if self.no_finding is not None:
            column = parts[:, self.no_finding]
            union[self.no_finding] = 0 if (column == 0).any() else column.min()
        return union.astype(np.float32)


def _cutmix_box(rng: np.random.Generator, share: float, size: int) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a square around a random pixel, clipped to the image.

    `share` is its side as a share of the image's side.
    """
    half = share * size / 2
    centre = rng.integers(size, size=2)
    low, high = np.clip(np.rint([centre - half, centre + half]).astype(int), 0, size)
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def _quadrants(centre: tuple[int, ...], size: int) -> list[tuple[slice, slice]]:
    """Return the slices (rows, columns) of the four parts of a square that meet at `centre`."""
    y, x = centre
    halves = [(slice(0, y), slice(y, size)), (slice(0, x), slice(x, size))]
    return [(rows, columns) for rows in halves[0] for columns in halves[1]]
