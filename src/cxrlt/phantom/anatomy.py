"""A normal chest in frontal or lateral view: landmarks, drawing primitives and normal anatomy.

Coordinates are shares of the side of the image, x to the right and y down, so the patient's right lung is on
the left. An image is a float32 density (SIZE, SIZE): 0 is air, 1 is metal. Densities of
overlapping structures add up.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

SIZE = 256
"""Side of an image in pixels."""
SHIFT = 4
"""Fractional bits of coordinates for OpenCV."""
RIGHT, LEFT = 0, 1
LUNG, TISSUE, HEART, ABDOMEN = 0.20, 0.47, 0.60, 0.64
"""Densities."""
Point = tuple[float, float] | np.ndarray
"""(x, y), as a tuple or an array (2,)."""


def blur_mask(mask: np.ndarray, blur: float) -> np.ndarray:
    """Convert a uint8 mask (SIZE, SIZE) to float32 in [0, 1] and blur it with sigma `blur` pixels."""
    mask = mask.astype(np.float32) / 255
    return cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask


def to_pixels(points: np.ndarray) -> np.ndarray:
    """Convert points (n, 2) to fixed-point pixel coordinates for OpenCV: int32 (n, 2)."""
    return np.round(np.asarray(points) * SIZE * 2**SHIFT).astype(np.int32)


def polygon_mask(points: np.ndarray, blur: float = 1.0) -> np.ndarray:
    """Return the mask (SIZE, SIZE) float32 of the filled polygon with corners `points` (n, 2)."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [to_pixels(points)], 255, cv2.LINE_AA, SHIFT)
    return blur_mask(mask, blur)


def line_mask(paths: list[np.ndarray], width: int = 1, blur: float = 0.6) -> np.ndarray:
    """Return the mask (SIZE, SIZE) of open lines (n, 2), `width` pixels wide; at most 1 at crossings."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, [to_pixels(path) for path in paths], False, 255, width, cv2.LINE_AA, SHIFT)
    return blur_mask(mask, blur)


def ellipse(center: Point, radii: tuple[float, float], turn: float = 0.0) -> np.ndarray:
    """Return the outline (49, 2) of an ellipse, rotated clockwise by `turn` radians."""
    angle = np.linspace(0, 2 * np.pi, 49)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], -1) + center


def bezier(start: Point, middle: Point, end: Point) -> np.ndarray:
    """Return a quadratic Bézier curve (17, 2) from start to end, pulled towards middle."""
    t = np.linspace(0, 1, 17)[:, None]
    return (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(middle) + t**2 * np.array(end)


def smooth_outline(corners: np.ndarray) -> np.ndarray:
    """Smooth the closed outline `corners` (n, 2) by Chaikin's corner cutting, three times: (8 * n, 2)."""
    for _ in range(3):
        after = np.roll(corners, -1, axis=0)
        corners = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], 1).reshape(-1, 2)
    return corners


def shifted(points: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return points (n, 2) moved by (x, y)."""
    return points + np.array((x, y))


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return smooth noise (SIZE, SIZE) float32 with about `cells` bumps along a side."""
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def set_density(density: np.ndarray, mask: np.ndarray, level: float) -> np.ndarray:
    """Set the density (SIZE, SIZE) under the mask to `level`, which hides what was drawn there before."""
    return density + mask * (level - density)


@dataclass(frozen=True)
class Body:
    """Landmarks of one patient in one image."""

    lateral: bool
    center: float
    half_width: float
    apex: float
    dome: float
    mediastinum: float
    heart: float
    """Half-width of the heart; normally about half of `half_width`."""
    rib_slope: float
    breast: float
    fat: float

    def lung_point(self, side: int, u: float | np.ndarray, v: float | np.ndarray) -> np.ndarray:
        """Return the image coordinates (n, 2) of lung coordinates u, v (n,); (2,) for two numbers.

        u is 0 at the mediastinum and 1 at the chest wall; on a lateral view 0 in front and 1 at the back.
        v is 0 at the apex and 1 at the diaphragm.
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

    def lung_region(self, side: int, u: Point, v: Point) -> np.ndarray:
        """Return the outline (96, 2) of the part of a lung from u[0] to u[1] and from v[0] to v[1]."""
        t = np.linspace(0, 1, 24)
        us, vs = u[0] + t * (u[1] - u[0]), v[0] + t * (v[1] - v[0])
        edges = [
            self.lung_point(side, us, v[0]),
            self.lung_point(side, u[1], vs),
            self.lung_point(side, us[::-1], v[1]),
        ]
        return np.concatenate([*edges, self.lung_point(side, u[0], vs[::-1])])

    def for_view(self, frontal: float, lateral: float) -> float:
        """Return the number of this image's view."""
        return lateral if self.lateral else frontal

    def lung_mask(self, side: int) -> np.ndarray:
        """Return the mask (SIZE, SIZE) float32 of a lung."""
        return polygon_mask(self.lung_region(side, (0, 1), (0, 1)), 1.2)

    @cached_property
    def lungs_mask(self) -> np.ndarray:
        """Mask (SIZE, SIZE) of both lungs, which overlap on a lateral view."""
        return np.maximum(self.lung_mask(RIGHT), self.lung_mask(LEFT))

    def heart_outline(self, growth: float = 1.0) -> np.ndarray:
        """Return the outline (n, 2) of the heart, enlarged by the factor `growth`."""
        width, middle = self.heart * growth, self.dome - 0.075
        if self.lateral:
            return ellipse((self.center - 0.1, middle - 0.01), (width * 0.85, 0.13 * growth), 0.5)
        base, tip = self.dome + 0.02, self.center + 1.3 * width
        right = [(self.center - 0.55 * width, base - 0.2), (self.center - 0.75 * width, base - 0.08)]
        left = [(self.center + 0.9 * width, base + 0.035), (tip, base - 0.01), (tip - 0.02, base - 0.06)]
        top = [(self.center + 0.6 * width, base - 0.17 * growth**0.5), (self.center + 0.04, base - 0.27)]
        return smooth_outline(np.array([*right, (self.center - 0.5 * width, base + 0.01), *left, *top]))

    @property
    def aortic_knob(self) -> tuple[float, float]:
        """Centre of the aortic arch."""
        return (self.center + self.for_view(0.055, 0.01), self.apex + self.for_view(0.2, 0.22))

    def rib_line(self, side: int, number: int) -> np.ndarray:
        """Return the middle line (17, 2) of posterior rib `number` (0 to 8), from the spine outwards."""
        v = 0.03 + 0.1 * number
        if self.lateral:
            start, end = self.lung_point(side, 1.0, v), self.lung_point(side, 0.25, min(v + 0.22, 1.1))
            return bezier(start, (start + end) / 2 + (0, 0.05 * self.rib_slope), end)
        end = self.lung_point(side, 1.02, min(v + 0.06 * self.rib_slope + 0.07, 1.0))
        start = np.array([self.center + (0.04 if side == LEFT else -0.04), self.lung_point(side, 0, v)[1]])
        return bezier(start, (start * 0.35 + end * 0.65) - (0, 0.06), end)


def sample_body(rng: np.random.Generator) -> Body:
    """Sample the frontal landmarks of a patient."""
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


def pose_body(body: Body, view: str, rng: np.random.Generator) -> Body:
    """Return the landmarks in one image: inspiration differs, and an AP view enlarges the heart."""
    magnification = 1.1 if view == "AP" else 1.0
    return replace(
        body,
        lateral=view == "LATERAL",
        dome=body.dome + rng.uniform(-0.04, 0.03) - (0.02 if view == "AP" else 0),
        heart=body.heart * magnification * rng.uniform(0.93, 1.07),
        mediastinum=body.mediastinum * magnification * rng.uniform(0.9, 1.1),
    )


def draw_normal_chest(body: Body, rng: np.random.Generator) -> np.ndarray:
    """Return the density (SIZE, SIZE) of a chest without findings."""
    density = draw_trunk(body)
    density = draw_lungs(density, body, rng)
    density = (
        draw_lateral_mediastinum(density, body) if body.lateral else draw_frontal_mediastinum(density, body)
    )
    density += draw_bones(body)
    return density + 0.012 * smooth_noise(rng, 24)


def draw_trunk(body: Body) -> np.ndarray:
    """Return the density (SIZE, SIZE) of the soft tissue of the trunk."""
    c, fat = body.center, body.fat
    if body.lateral:
        front, back = c - 0.33 - fat / 2, c + 0.33 + fat / 2
        corners = [(c - 0.1, -0.1), (c - 0.16, 0.08), (front, 0.35), (front, 1.1), (back, 1.1), (back, 0.3)]
        corners += [(c + 0.24, 0.08), (c + 0.14, -0.1)]
        return (TISSUE + fat) * polygon_mask(np.array(corners), 8)
    right = np.array([(-0.09, -0.1), (-0.12, 0.04), (-0.4, 0.12), (-0.5 - fat, 0.3), (-0.46 - fat, 1.1)])
    outline = shifted(np.concatenate([right, (right * (-1, 1))[::-1]]), c, 0)
    return (TISSUE + fat) * polygon_mask(outline, 4)


def draw_lungs(density: np.ndarray, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Add abdomen, lungs, vessels and breasts to the density (SIZE, SIZE)."""
    # The abdomen is blurred and too high; the lungs drawn over it make the sharp edge of the diaphragm.
    belly = polygon_mask(
        np.array([(-0.5, body.dome + 0.02), (1.5, body.dome + 0.02), (1.5, 1.5), (-0.5, 1.5)]), 9
    )
    density = set_density(density, belly * (density / (TISSUE + body.fat)), ABDOMEN + body.fat)
    density = set_density(density, body.lungs_mask * 0.92, LUNG + rng.uniform(-0.05, 0.07))
    for side in (RIGHT, LEFT):
        density += 0.085 * draw_vessels(body, side, rng) * body.lungs_mask
    if not body.lateral:
        breasts = [
            polygon_mask(ellipse(body.lung_point(s, 0.55, 0.85), (0.15, 0.13)), 5) for s in (RIGHT, LEFT)
        ]
        density += body.breast * np.maximum(*breasts)
    return density


def draw_vessels(body: Body, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mask (SIZE, SIZE) of the hilum and vessels of a lung."""
    hilum = body.lung_point(side, body.for_view(0.1, 0.48), 0.45)
    mask = 0.8 * polygon_mask(ellipse(hilum, (0.03, 0.05)), 4)
    for width, reach, count in ((3, 0.45, 7), (2, 0.7, 9), (1, 0.92, 12)):
        paths = []
        for angle in rng.uniform(-1.3, 1.5, count):
            u, v = reach * np.cos(angle), 0.45 + reach * 0.5 * np.sin(angle)
            if body.lateral:
                u = 0.48 + (u - 0.2) * rng.choice([-0.7, 0.8])
            end = body.lung_point(side, u, v)
            paths.append(bezier(hilum, (hilum + end) / 2 + rng.normal(0, 0.025, 2), end))
        mask = np.maximum(mask, line_mask(paths, width, 0.8) * (0.55 + 0.15 * width))
    return mask


def draw_frontal_mediastinum(density: np.ndarray, body: Body) -> np.ndarray:
    """Add mediastinum, heart, spine and airways of a frontal view to the density (SIZE, SIZE)."""
    c, m, top = body.center, body.mediastinum, body.apex
    column = np.array([(c - m, -0.1), (c + m, -0.1), (c + m * 1.05, body.dome), (c - m * 1.05, body.dome)])
    for outline in (column, ellipse(body.aortic_knob, (0.04, 0.04)), body.heart_outline()):
        density = set_density(density, polygon_mask(outline, 1.8), np.maximum(density, HEART - 0.05))
    spine = np.array([(c - 0.045, -0.1), (c + 0.045, -0.1), (c + 0.05, 1.1), (c - 0.05, 1.1)])
    density += 0.07 * polygon_mask(spine, 1.5)
    discs = [np.array([(c - 0.04, y), (c + 0.04, y)]) for y in np.arange(0.05, 1, 0.06)]
    density -= 0.04 * line_mask(discs, 2, 1.0)
    airway = [bezier((c, -0.05), (c, 0.1), (c + 0.005, top + 0.24))]
    airway += [
        bezier((c, top + 0.23), (c + s * 0.03, top + 0.27), (c + s * 0.07, top + 0.3)) for s in (-1, 1)
    ]
    return density - 0.11 * line_mask(airway[:1], 7, 1.5) - 0.06 * line_mask(airway[1:], 4, 1.5)


def draw_lateral_mediastinum(density: np.ndarray, body: Body) -> np.ndarray:
    """Add aorta, heart, spine, sternum and airway of a lateral view to the density (SIZE, SIZE)."""
    c = body.center
    arch = bezier((c - 0.04, body.apex + 0.36), (c + 0.01, body.apex + 0.02), (c + 0.1, body.apex + 0.4))
    density = set_density(density, 0.45 * line_mask([arch], 14, 3), HEART - 0.1)
    density = set_density(density, polygon_mask(body.heart_outline(), 2.2), HEART)
    spine = bezier((c + 0.16, -0.05), (c + 0.27, 0.5), (c + 0.2, 1.1))
    density += 0.16 * line_mask([spine], 20, 2)
    discs = [np.array([shifted(p, -0.035, 0.004), shifted(p, 0.035, -0.004)]) for p in spine]
    density -= 0.08 * line_mask(discs, 2, 1.0)
    sternum = bezier((c - 0.13, body.apex + 0.06), (c - 0.27, 0.3), (c - 0.29, 0.6))
    density += 0.16 * line_mask([sternum], 5, 1.2)
    airway = bezier((c + 0.0, -0.05), (c + 0.01, 0.1), (c + 0.03, body.apex + 0.26))
    return density - 0.13 * line_mask([airway], 7, 1.5)


def draw_bones(body: Body) -> np.ndarray:
    """Return the density (SIZE, SIZE) of ribs and clavicles."""
    ribs = [body.rib_line(side, number) for side in (RIGHT, LEFT) for number in range(9)]
    bones = 0.05 * line_mask(ribs, 7, 1.0)
    if body.lateral:
        return bones * 0.7
    # The cortex makes the edges of a rib whiter than its middle.
    edges = [shifted(rib, 0, offset) for rib in ribs for offset in (-0.012, 0.012)]
    bones += 0.045 * line_mask(edges, 1, 0.7)
    front = []
    for side in (RIGHT, LEFT):
        for number in range(1, 6):
            outer = body.lung_point(side, 1.0, 0.12 + 0.13 * number)
            inner = body.lung_point(side, 0.25, 0.3 + 0.13 * number)
            front.append(bezier(outer, (outer + inner) / 2 + (0, 0.04), inner))
    bones += 0.03 * line_mask(front, 7, 1.2)
    collar = [
        bezier(*((body.center + sign * x, body.apex + y) for x, y in ((0.05, 0.08), (0.2, 0.1), (0.4, 0.0))))
        for sign in (-1, 1)
    ]
    return bones + 0.11 * line_mask(collar, 7, 1.0)


def render_radiograph(density: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Render the uint8 radiograph (SIZE, SIZE) of a density (SIZE, SIZE).

    Applies `affine` (2, 3), an uneven field, exposure and noise.
    """
    density = cv2.warpAffine(density, affine, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    field = 0.05 * smooth_noise(rng, 4) + rng.normal(0, 0.06) * np.linspace(-1, 1, SIZE, dtype=np.float32)
    density = density * rng.uniform(0.8, 1.2) + field * (density > 0.1) + rng.normal(0, 0.03)
    grain = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE), dtype=np.float32), (0, 0), 0.7)
    light = np.clip(density * 1.15 + grain * rng.uniform(0.01, 0.035), 0, 1) ** rng.uniform(0.75, 1.25)
    return np.round(light * 255).astype(np.uint8)


def sample_affine(rng: np.random.Generator) -> np.ndarray:
    """Sample the patient's position: a small rotation, scaling and shift as a matrix (2, 3)."""
    center = (SIZE / 2, SIZE / 2)
    rotation, scale = float(rng.normal(0, 4)), float(rng.uniform(0.84, 1.14))
    affine = np.asarray(cv2.getRotationMatrix2D(center, rotation, scale), np.float64)
    affine[:, 2] += rng.normal(0, 0.035 * SIZE, 2)
    return affine
