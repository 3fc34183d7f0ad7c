"""Training images made of several: mixup, cutmix and mosaic, and what their labels become.

Everything is drawn from one seed per draw, so that targets are known without reading an image.
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
CENTRE = (0.4, 0.6)
"""Where the four images of a mosaic meet, as shares of the side: none is squeezed by more than 2 to 3."""


@dataclass(frozen=True)
class Mix:
    """One mixed image: the rows (k,) it is made of, one of them the draw's own, and weights (k,) of sum 1.

    `cut` is, in pixels, the rectangle (top, bottom, left, right) of a cutmix, or (y, x) where the images of
    a mosaic meet.
    """

    kind: Kind
    rows: np.ndarray
    weights: np.ndarray
    cut: tuple[int, ...] = ()

    def image(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The images of `rows`, each uint8 (size, size) or (size, size, 3), as one; they are left alone."""
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
    """Which draws are mixed, and how: a recipe's data.mix for the classes of a challenge.

    Sources: mixup, Zhang et al., ICLR 2018, equation 1; cutmix, Yun et al., ICCV 2019, equations 1 and 2,
    with the share of pixels after clipping as its weight.
    """

    kinds: tuple[Kind, ...]
    probability: float
    alpha: float
    unions: frozenset[Kind]
    """Kinds whose labels are a union; those of the others are weighted means."""
    no_finding: int | None = None
    """Column of the class that is true of an image only if it is true of all its parts."""

    @classmethod
    def create(
        cls, cfg: MixConfig, classes: Sequence[str], no_finding: str | None, task: Task
    ) -> Self | None:
        """None if nothing is mixed. Raises UserError for a union where an image has exactly one class."""
        if not cfg.kinds or not cfg.probability:
            return None
        if cfg.labels == "union" and task == "single_label":
            raise UserError(
                "data.mix.labels union gives an image the classes of several, but here it has exactly one: "
                "take data.mix.labels soft or auto."
            )
        unions = {"union": set(cfg.kinds), "soft": set(), "auto": {"mosaic"}}[cfg.labels]
        if task == "single_label":
            unions = set()
        column = list(classes).index(no_finding) if no_finding is not None else None
        return cls(cfg.kinds, cfg.probability, cfg.alpha, frozenset(unions), column)

    def draw(self, seed: int, row: int, n_rows: int, size: int) -> Mix | None:
        """How the draw of `row` with this seed is mixed at `size` pixels; None: not at all.

        The other rows are any of the `n_rows`, each alike.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.probability:
            return None
        kind = self.kinds[rng.integers(len(self.kinds))]
        rows = np.array([row, *rng.integers(n_rows, size=3 if kind == "mosaic" else 1)])
        if kind == "mosaic":
            rows = rng.permutation(rows)  # or the draw's own would always be the upper left
            cut = tuple(np.rint(rng.uniform(*CENTRE, 2) * size).astype(int).tolist())
            areas = [(a.stop - a.start) * (b.stop - b.start) for a, b in _quadrants(cut, size)]
            return Mix(kind, rows, np.array(areas) / size**2, cut)
        own = rng.beta(self.alpha, self.alpha)
        if kind == "mixup":
            return Mix(kind, rows, np.array([own, 1 - own]))
        top, bottom, left, right = cut = _rectangle(rng, np.sqrt(1 - own), size)
        other = (bottom - top) * (right - left) / size**2
        return Mix(kind, rows, np.array([1 - other, other]), cut)

    def targets(self, mix: Mix, targets: np.ndarray) -> np.ndarray:
        """Targets (c,) of a mixed image from those of its rows (k, c); parts without a pixel do not count.

        Weighted mean: NaN where a part is NaN. Union: 1 where any part is 1, else NaN where one is NaN, else
        the largest; for the class of no finding 0 where any part is 0, else NaN, else the least.
        """
        visible = mix.weights > 0
        parts = targets[visible]
        if mix.kind not in self.unions:
            return (mix.weights[visible] @ parts).astype(np.float32)
        union = np.where((parts == 1).any(axis=0), 1, parts.max(axis=0))
        if self.no_finding is not None:
            column = parts[:, self.no_finding]
            union[self.no_finding] = 0 if (column == 0).any() else column.min()
        return union.astype(np.float32)


def _rectangle(rng: np.random.Generator, share: float, size: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a square of that share of the side about any pixel, clipped."""
    half = share * size / 2
    centre = rng.integers(size, size=2)
    low, high = np.clip(np.rint([centre - half, centre + half]).astype(int), 0, size)
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def _quadrants(centre: tuple[int, ...], size: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the four parts of a square that meet in `centre`."""
    y, x = centre
    halves = [(slice(0, y), slice(y, size)), (slice(0, x), slice(x, size))]
    return [(rows, columns) for rows in halves[0] for columns in halves[1]]
