"""Draw mimics: normal shadows that look like a finding, for images without that finding.

The signature is that of a sign (signs.py): (density, body, c, rng) -> density, float32 (SIZE, SIZE).
"""

import numpy as np

from cxrlt.phantom.anatomy import (
    LEFT,
    RIGHT,
    Body,
    bezier,
    ellipse,
    line_mask,
    polygon_mask,
    set_density,
    shifted,
)
from cxrlt.phantom.signs import random_side, soft_ellipse

Density = np.ndarray
Rng = np.random.Generator


def cartilage(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Calcified cartilage of the first ribs, near the aortic knob."""
    for side in (RIGHT, LEFT):
        spots = body.lung_point(side, body.for_view(0.3, 0.1), 0.17) + rng.normal(0, 0.012, (5, 2))
        density = density + 0.25 * c * line_mask([np.stack([spot, spot + 0.008]) for spot in spots], 2, 0.6)
    return density


def breast_shadow(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A breast over one lung base: dense, with a sharp lower edge that crosses the diaphragm."""
    center = body.lung_point(random_side(rng), body.for_view(0.55, 0.0), 0.85)
    return density + 0.13 * c * polygon_mask(ellipse(center, (0.14, 0.13)), 2.5)


def crowded_bases(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Vessels close together after a shallow breath: long parallel lines, while fibrosis is a net."""
    paths = []
    for side in (RIGHT, LEFT):
        for u in rng.uniform(0.1, 0.8, 9):
            paths.append(body.lung_point(side, np.array([u * 0.7, u]), np.array([0.6, 0.98])))
    return density + 0.13 * c * line_mask(paths, 2, 0.8) * body.lungs_mask


def crossing_ribs(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A bright area where two ribs cross."""
    rib = body.rib_line(random_side(rng), int(rng.integers(3, 6)))[10:13]
    return density + 0.12 * c * line_mask([rib, shifted(rib, 0, 0.01)], 5, 0.8)


def stomach_bubble(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Air in the stomach: round, at a distance below the left diaphragm."""
    size = rng.uniform(0.05, 0.08)
    center = shifted(body.lung_point(LEFT, body.for_view(0.45, 0.4), 1.0), 0, 0.045 + size * 0.7)
    return density - 0.26 * c * polygon_mask(ellipse(center, (size * 1.3, size * 0.8)), 2)


def electrode(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """An ECG electrode on the skin: a small disc and a ring."""
    center = body.lung_point(random_side(rng), rng.uniform(0.4, 0.9), rng.uniform(0.1, 0.3))
    ring = line_mask([ellipse(center, (0.026, 0.026))], 1, 0.5)
    return density + 0.35 * c * np.maximum(ring, soft_ellipse(center, (0.01, 0.01), 0.8))


def monitor_lead(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """An ECG cable: thin, across the chest and out of the image."""
    start, end = (
        (rng.uniform(0.15, 0.85), 1.05),
        body.lung_point(random_side(rng), rng.uniform(0.4, 0.9), 0.15),
    )
    middle = rng.uniform(0.2, 0.8, 2)
    return density + 0.22 * c * line_mask([bezier(start, middle, end)], 1, 0.5)


def full_hilum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A large hilar vessel: less dense than a mass, and always at the hilum."""
    center = body.lung_point(random_side(rng), body.for_view(0.15, 0.5), 0.43)
    return density + 0.16 * c * soft_ellipse(center, (0.045, 0.065), 3)


def nipples(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Two nipples: at the same height, low and lateral."""
    v = rng.uniform(0.78, 0.86)
    for side in (RIGHT, LEFT):
        density = density + 0.2 * c * soft_ellipse(
            body.lung_point(side, body.for_view(0.65, 0.03), v), (0.02, 0.02), 1.2
        )
    return density


def companion_shadow(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Soft tissue along the second ribs: thin, on both sides."""
    edges = [body.lung_point(side, np.linspace(0.35, 0.95, 17), 0.05) for side in (RIGHT, LEFT)]
    return density + 0.1 * c * line_mask(edges, 4, 1.2)


def mach_band(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A Mach band: a dark rim around the heart, without the white line of a pneumomediastinum."""
    return density - 0.1 * c * line_mask([body.heart_outline(1.06)[24:56]], 2, 1.2)


def colon_gas(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Gas in the colon below the right diaphragm: a row of bubbles."""
    for u in (0.3, 0.5, 0.7):
        center = shifted(body.lung_point(RIGHT, u, 1.0), 0, 0.07)
        density = density - 0.18 * c * polygon_mask(ellipse(center, (0.035, 0.028)), 1.5)
    return density


def skin_fold(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A skin fold: an edge, dense on one side, that continues outside the lung."""
    side, shift = random_side(rng), rng.uniform(-0.1, 0.1)
    start, end = body.lung_point(side, 0.5 + shift, -0.1), body.lung_point(side, 0.85 + shift, 1.15)
    fold = bezier(start, body.lung_point(side, 0.75 + shift, 0.4), end)
    inward = np.array([0.05 if side == RIGHT else -0.05, 0.0])
    return density + 0.09 * c * polygon_mask(np.concatenate([fold, (fold + inward)[::-1]]), 1.0)


def hair(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Braided hair over neck and shoulder: white streaks."""
    start = np.array([body.center + rng.choice([-0.14, 0.14]), -0.05])
    starts, sways = start + rng.normal(0, 0.02, (6, 2)), rng.normal(0, 0.04, 6)
    plait = [
        bezier(s, shifted(s, 0.02, 0.1), shifted(s, sway, 0.2)) for s, sway in zip(starts, sways, strict=True)
    ]
    return density + 0.12 * c * line_mask(plait, 2, 0.6)


def spine_edge(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """The straight edge of the soft tissue left of the spine."""
    x, y = body.center + body.for_view(0.08, 0.12), body.apex + 0.2
    strip = np.array([(x, y), (x + 0.015, body.dome)])
    return set_density(density, line_mask([strip], 6, 1.5) * c * 0.5, np.maximum(density, 0.5))
