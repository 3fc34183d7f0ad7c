"""A normal chest in frontal or lateral view: landmarks, drawing primitives and the anatomy they draw.

Coordinates are shares of the picture's side, x to the right and y down, so the patient's right lung is on
the left. A picture is a float32 density of shape (SIZE, SIZE): 0 is air, 1 is metal; X-rays add up.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

SIZE = 256
SHIFT = 4
RIGHT, LEFT = 0, 1
LUNG, TISSUE, HEART, ABDOMEN = 0.20, 0.47, 0.60, 0.64


def soften(mask: np.ndarray, blur: float) -> np.ndarray:
    """A uint8 mask as float32 in [0, 1], blurred by `blur` pixels."""
    mask = mask.astype(np.float32) / 255
    return cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask


def pixels(points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * SIZE * 2**SHIFT).astype(np.int32)


def area(points: np.ndarray, blur: float = 1.0) -> np.ndarray:
    """The filled polygon through `points` (n, 2)."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [pixels(points)], 255, cv2.LINE_AA, SHIFT)
    return soften(mask, blur)


def lines(paths: list[np.ndarray], width: int = 1, blur: float = 0.6) -> np.ndarray:
    """Open lines, `width` pixels thick, as one mask: crossings do not add up."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, [pixels(path) for path in paths], False, 255, width, cv2.LINE_AA, SHIFT)
    return soften(mask, blur)


def oval(center: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> np.ndarray:
    """Outline (49, 2) of an ellipse turned clockwise by `turn` radians."""
    angle = np.linspace(0, 2 * np.pi, 49)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], -1) + center


def bend(start: tuple[float, float], middle: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """A smooth line (17, 2) from start to end, pulled towards middle (quadratic Bezier)."""
    t = np.linspace(0, 1, 17)[:, None]
    return (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(middle) + t**2 * np.array(end)


def rounded(corners: np.ndarray) -> np.ndarray:
    """The closed smooth outline near `corners` (n, 2): Chaikin's corner cutting, three times."""
    for _ in range(3):
        after = np.roll(corners, -1, axis=0)
        corners = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], 1).reshape(-1, 2)
    return corners


def moved(points: np.ndarray, x: float, y: float) -> np.ndarray:
    return points + np.array((x, y))


def clouds(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise of unit variance with about `cells` bumps along a side."""
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def fill(density: np.ndarray, mask: np.ndarray, level: float) -> np.ndarray:
    """Bring the density under the mask to `level`, which hides what lay there."""
    return density + mask * (level - density)


@dataclass(frozen=True)
class Body:
    """Landmarks of one patient in one picture."""

    lateral: bool
    center: float
    half_width: float
    apex: float
    dome: float
    mediastinum: float
    heart: float
    """Half-width of the heart; about half of the lungs' when normal."""
    rib_slope: float
    breast: float
    fat: float

    def at(self, side: int, u: float | np.ndarray, v: float | np.ndarray) -> np.ndarray:
        """Picture coordinates (…, 2) of a place in a lung.

        u runs from the mediastinum (0) to the chest wall (1), on a lateral view from the front (0) to the
        back (1); v from the apex (0) to the diaphragm (1).
        """
        u, v = np.broadcast_arrays(np.asarray(u, float), np.asarray(v, float))
        wide = 0.5 + 0.5 * np.sin(np.clip(v / 0.7, 0, 1) * np.pi / 2)
        if self.lateral:
            front, back = self.center - 0.27 * wide, self.center + 0.25 * wide
            x = front + u * (back - front)
            bottom = self.dome + 0.02 * side + 0.15 * np.clip((u - 0.3) / 0.7, 0, 1) ** 1.5
        else:
            reach = self.mediastinum + u * (self.half_width * wide - self.mediastinum)
            x = self.center + (reach if side == LEFT else -reach)
            bottom = self.dome + 0.03 * side + 0.085 * np.clip((u - 0.35) / 0.65, 0, 1) ** 2
        top = self.apex + 0.2 * (u - 0.35) ** 2
        return np.stack([x, top + v * (bottom - top)], -1)

    def region(self, side: int, u: tuple[float, float], v: tuple[float, float]) -> np.ndarray:
        """Outline of the part of a lung between two u and two v."""
        t = np.linspace(0, 1, 24)
        us, vs = u[0] + t * (u[1] - u[0]), v[0] + t * (v[1] - v[0])
        edges = [self.at(side, us, v[0]), self.at(side, u[1], vs), self.at(side, us[::-1], v[1])]
        return np.concatenate([*edges, self.at(side, u[0], vs[::-1])])

    def pick(self, frontal: float, lateral: float) -> float:
        return lateral if self.lateral else frontal

    def lung(self, side: int) -> np.ndarray:
        return area(self.region(side, (0, 1), (0, 1)), 1.2)

    @cached_property
    def lungs(self) -> np.ndarray:
        """Mask of both lungs (on a lateral view they lie on top of each other)."""
        return np.maximum(self.lung(RIGHT), self.lung(LEFT))

    def heart_outline(self, growth: float = 1.0) -> np.ndarray:
        width, middle = self.heart * growth, self.dome - 0.075
        if self.lateral:
            return oval((self.center - 0.1, middle - 0.01), (width * 0.85, 0.13 * growth), 0.5)
        base, tip = self.dome + 0.02, self.center + 1.3 * width
        right = [(self.center - 0.55 * width, base - 0.2), (self.center - 0.75 * width, base - 0.08)]
        left = [(self.center + 0.9 * width, base + 0.035), (tip, base - 0.01), (tip - 0.02, base - 0.06)]
        top = [(self.center + 0.6 * width, base - 0.17 * growth**0.5), (self.center + 0.04, base - 0.27)]
        return rounded(np.array([*right, (self.center - 0.5 * width, base + 0.01), *left, *top]))

    @property
    def knob(self) -> tuple[float, float]:
        """Centre of the aortic arch."""
        return (self.center + self.pick(0.055, 0.01), self.apex + self.pick(0.2, 0.22))

    def rib(self, side: int, number: int) -> np.ndarray:
        """Middle line (17, 2) of a posterior rib, from the spine outwards; numbers 0 to 8."""
        v = 0.03 + 0.1 * number
        if self.lateral:
            start, end = self.at(side, 1.0, v), self.at(side, 0.25, min(v + 0.22, 1.1))
            return bend(start, (start + end) / 2 + (0, 0.05 * self.rib_slope), end)
        end = self.at(side, 1.02, min(v + 0.06 * self.rib_slope + 0.07, 1.0))
        start = np.array([self.center + (0.04 if side == LEFT else -0.04), self.at(side, 0, v)[1]])
        return bend(start, (start * 0.35 + end * 0.65) - (0, 0.06), end)


def draw_body(rng: np.random.Generator) -> Body:
    """A patient's frontal landmarks."""
    half_width = rng.uniform(0.33, 0.41)
    return Body(
        lateral=False,
        center=0.5,
        half_width=half_width,
        apex=rng.uniform(0.08, 0.14),
        dome=rng.uniform(0.65, 0.76),
        mediastinum=rng.uniform(0.045, 0.08),
        heart=half_width * rng.uniform(0.34, 0.48),
        rib_slope=rng.uniform(0.6, 1.8),
        breast=rng.uniform(0, 0.09) * (rng.random() < 0.5),
        fat=rng.uniform(0, 0.1),
    )


def pose(body: Body, view: str, rng: np.random.Generator) -> Body:
    """The patient in one picture: breath taken, and the wider heart of an AP exposure."""
    wider = 1.1 if view == "AP" else 1.0
    return replace(
        body,
        lateral=view == "LATERAL",
        dome=body.dome + rng.uniform(-0.04, 0.03) - (0.02 if view == "AP" else 0),
        heart=body.heart * wider * rng.uniform(0.93, 1.07),
        mediastinum=body.mediastinum * wider * rng.uniform(0.9, 1.1),
    )


def draw_normal(body: Body, rng: np.random.Generator) -> np.ndarray:
    """The density of a chest without findings."""
    density = draw_trunk(body)
    density = draw_lungs(density, body, rng)
    density = draw_lateral_middle(density, body) if body.lateral else draw_frontal_middle(density, body)
    density += draw_bones(body)
    return density + 0.012 * clouds(rng, 24)


def draw_trunk(body: Body) -> np.ndarray:
    c, fat = body.center, body.fat
    if body.lateral:
        front, back = c - 0.33 - fat / 2, c + 0.33 + fat / 2
        outline = [(c - 0.1, -0.1), (c - 0.16, 0.08), (front, 0.35), (front, 1.1), (back, 1.1), (back, 0.3)]
        outline += [(c + 0.24, 0.08), (c + 0.14, -0.1)]
        return (TISSUE + fat) * area(np.array(outline), 8)
    right = np.array([(-0.09, -0.1), (-0.12, 0.04), (-0.4, 0.12), (-0.5 - fat, 0.3), (-0.46 - fat, 1.1)])
    outline = moved(np.concatenate([right, (right * (-1, 1))[::-1]]), c, 0)
    return (TISSUE + fat) * area(outline, 4)


def draw_lungs(density: np.ndarray, body: Body, rng: np.random.Generator) -> np.ndarray:
    # Drawn soft and a little high: the lungs, filled over it, give the diaphragm its sharp edge.
    belly = area(np.array([(-0.5, body.dome + 0.02), (1.5, body.dome + 0.02), (1.5, 1.5), (-0.5, 1.5)]), 9)
    density = fill(density, belly * (density / (TISSUE + body.fat)), ABDOMEN + body.fat)
    density = fill(density, body.lungs * 0.92, LUNG + rng.uniform(-0.05, 0.07))
    for side in (RIGHT, LEFT):
        density += 0.085 * draw_vessels(body, side, rng) * body.lungs
    if not body.lateral:
        breasts = [area(oval(body.at(s, 0.55, 0.85), (0.15, 0.13)), 5) for s in (RIGHT, LEFT)]
        density += body.breast * np.maximum(*breasts)
    return density


def draw_vessels(body: Body, side: int, rng: np.random.Generator) -> np.ndarray:
    hilum = body.at(side, body.pick(0.1, 0.48), 0.45)
    mask = 0.8 * area(oval(hilum, (0.03, 0.05)), 4)
    for width, reach, count in ((3, 0.45, 7), (2, 0.7, 9), (1, 0.92, 12)):
        paths = []
        for angle in rng.uniform(-1.3, 1.5, count):
            u, v = reach * np.cos(angle), 0.45 + reach * 0.5 * np.sin(angle)
            if body.lateral:
                u = 0.48 + (u - 0.2) * rng.choice([-0.7, 0.8])
            end = body.at(side, u, v)
            paths.append(bend(hilum, (hilum + end) / 2 + rng.normal(0, 0.025, 2), end))
        mask = np.maximum(mask, lines(paths, width, 0.8) * (0.55 + 0.15 * width))
    return mask


def draw_frontal_middle(density: np.ndarray, body: Body) -> np.ndarray:
    c, m, top = body.center, body.mediastinum, body.apex
    column = np.array([(c - m, -0.1), (c + m, -0.1), (c + m * 1.05, body.dome), (c - m * 1.05, body.dome)])
    for outline in (column, oval(body.knob, (0.04, 0.04)), body.heart_outline()):
        density = fill(density, area(outline, 1.8), np.maximum(density, HEART - 0.05))
    spine = np.array([(c - 0.045, -0.1), (c + 0.045, -0.1), (c + 0.05, 1.1), (c - 0.05, 1.1)])
    density += 0.07 * area(spine, 1.5)
    discs = [np.array([(c - 0.04, y), (c + 0.04, y)]) for y in np.arange(0.05, 1, 0.06)]
    density -= 0.04 * lines(discs, 2, 1.0)
    airway = [bend((c, -0.05), (c, 0.1), (c + 0.005, top + 0.24))]
    airway += [bend((c, top + 0.23), (c + s * 0.03, top + 0.27), (c + s * 0.07, top + 0.3)) for s in (-1, 1)]
    return density - 0.11 * lines(airway[:1], 7, 1.5) - 0.06 * lines(airway[1:], 4, 1.5)


def draw_lateral_middle(density: np.ndarray, body: Body) -> np.ndarray:
    c = body.center
    arch = bend((c - 0.04, body.apex + 0.36), (c + 0.01, body.apex + 0.02), (c + 0.1, body.apex + 0.4))
    density = fill(density, 0.45 * lines([arch], 14, 3), HEART - 0.1)
    density = fill(density, area(body.heart_outline(), 2.2), HEART)
    spine = bend((c + 0.16, -0.05), (c + 0.27, 0.5), (c + 0.2, 1.1))
    density += 0.16 * lines([spine], 20, 2)
    discs = [np.array([moved(p, -0.035, 0.004), moved(p, 0.035, -0.004)]) for p in spine]
    density -= 0.08 * lines(discs, 2, 1.0)
    sternum = bend((c - 0.13, body.apex + 0.06), (c - 0.27, 0.3), (c - 0.29, 0.6))
    density += 0.16 * lines([sternum], 5, 1.2)
    airway = bend((c + 0.0, -0.05), (c + 0.01, 0.1), (c + 0.03, body.apex + 0.26))
    return density - 0.13 * lines([airway], 7, 1.5)


def draw_bones(body: Body) -> np.ndarray:
    ribs = [body.rib(side, number) for side in (RIGHT, LEFT) for number in range(9)]
    bones = 0.05 * lines(ribs, 7, 1.0)
    if body.lateral:
        return bones * 0.7
    # The cortex makes a rib's edges whiter than its middle.
    edges = [moved(rib, 0, offset) for rib in ribs for offset in (-0.012, 0.012)]
    bones += 0.045 * lines(edges, 1, 0.7)
    front = []
    for side in (RIGHT, LEFT):
        for number in range(1, 6):
            outer = body.at(side, 1.0, 0.12 + 0.13 * number)
            inner = body.at(side, 0.25, 0.3 + 0.13 * number)
            front.append(bend(outer, (outer + inner) / 2 + (0, 0.04), inner))
    bones += 0.03 * lines(front, 7, 1.2)
    collar = [
        bend(*((body.center + sign * x, body.apex + y) for x, y in ((0.05, 0.08), (0.2, 0.1), (0.4, 0.0))))
        for sign in (-1, 1)
    ]
    return bones + 0.11 * lines(collar, 7, 1.0)


def expose(density: np.ndarray, turn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The uint8 radiograph of a density: pose (a 2 x 3 matrix), exposure, uneven field and noise."""
    density = cv2.warpAffine(density, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    field = 0.05 * clouds(rng, 4) + rng.normal(0, 0.06) * np.linspace(-1, 1, SIZE, dtype=np.float32)
    density = density * rng.uniform(0.8, 1.2) + field * (density > 0.1) + rng.normal(0, 0.03)
    grain = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE), dtype=np.float32), (0, 0), 0.7)
    light = np.clip(density * 1.15 + grain * rng.uniform(0.01, 0.035), 0, 1) ** rng.uniform(0.75, 1.25)
    return np.round(light * 255).astype(np.uint8)


def draw_turn(rng: np.random.Generator) -> np.ndarray:
    """How the patient lay in the picture: a small rotation, scaling and shift, as a 2 x 3 matrix."""
    center = (SIZE / 2, SIZE / 2)
    turn = cv2.getRotationMatrix2D(center, float(rng.normal(0, 4)), float(rng.uniform(0.84, 1.14)))
    turn[:, 2] += rng.normal(0, 0.035 * SIZE, 2)
    return turn
